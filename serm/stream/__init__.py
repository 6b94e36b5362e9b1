"""Query logs in: one window of the stream as the impressions that the rest of a cycle reads."""

from serm.stream.ingest import ingest

__all__ = ["ingest"]
