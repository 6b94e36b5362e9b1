"""The page a person looks at: one HTML file over all cycles of a workspace, which opens without a network."""

from serm.report.live import listen
from serm.report.page import build

__all__ = ["build", "listen"]
