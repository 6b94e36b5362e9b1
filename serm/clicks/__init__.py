"""Click models: what users find relevant, with the position they saw it at taken out of their clicks.

The engine reduces a log to sufficient statistics (``count``), ``ClickCounts.read`` brings those numbers into
numpy, and a model is fitted to them by EM (``fit``).
"""

from serm.clicks.counts import PAIR, ClickCounts, count
from serm.clicks.pbm import PositionBasedModel, fit

__all__ = ["PAIR", "ClickCounts", "PositionBasedModel", "count", "fit"]
