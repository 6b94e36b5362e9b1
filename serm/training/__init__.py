"""Fine-tuning: the first model from a base encoder, and each cycle's challenger from all judgments so far."""

from serm.training.train import bootstrap, train

__all__ = ["bootstrap", "train"]
