"""Serving on KServe: the predictor, the InferenceService, and the canary tried on this machine."""

from serm.serving.deploy import deploy

__all__ = ["deploy"]
