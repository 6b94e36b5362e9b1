"""Whether a model may serve: what evaluation, relevance and serving find of it, joined in one step each.

The rooms below know nothing of each other: evaluation measures scores, serving tries a model, relevance exports one.
"""

from serm.release.evaluate import evaluate

__all__ = ["evaluate"]
