"""Fine-tuning: the first model from a base encoder, each cycle's challenger from all judgments so far, and students."""

from serm.training.distill import distill
from serm.training.train import bootstrap, train

__all__ = ["bootstrap", "distill", "train"]
