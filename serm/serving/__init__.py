"""Serving on KServe: the predictor, the transformer, the InferenceService, and the canary tried on this machine.

It exports nothing: a server in a pod starts without what tries a canary (``serm.serving.deploy``).
"""
