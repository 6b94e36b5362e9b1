"""Queries drawn from a log, and the documents to judge for each: what users were served, and what searches find."""

from serm.pooling.draw import Draw, draw
from serm.pooling.pools import documents_of, pool
from serm.pooling.window import cut

__all__ = ["Draw", "cut", "documents_of", "draw", "pool"]
