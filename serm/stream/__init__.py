"""Query logs in: one window of the stream as the impressions that the rest of a cycle reads."""

from serm.stream.ingest import ingest
from serm.stream.look import Seen, look

__all__ = ["Seen", "ingest", "look"]
