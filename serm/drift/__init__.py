"""What changed between two windows of the stream, what is new in it, and whether that is worth a cycle."""

from serm.drift.detection import detect

__all__ = ["detect"]
