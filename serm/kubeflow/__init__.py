"""Kubeflow Pipelines: the compiled pipelines with what a cluster is to give them, and KFP's API."""
