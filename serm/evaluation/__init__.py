"""Champion against challenger: measures per query, slices, significance, and the gate before promotion."""

from serm.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
