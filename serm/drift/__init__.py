"""What changed between two windows of the stream, what is new in it, and whether that is worth a cycle."""

from serm.drift.drift import drift

__all__ = ["drift"]
