"""What a window of the stream and its catalogue must keep to; rows that do not go to quarantine with reasons."""

from serm.validation.validate import validate

__all__ = ["validate"]
