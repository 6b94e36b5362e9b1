"""The section ``cycle`` of params.yaml."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, model_validator

from serm.settings.section import Positive, Section


class CycleSettings(Section):
    """Which cycle this is, and the window of the stream that it learns from: start <= event_time < end."""

    number: Annotated[int, Field(ge=1, le=9999)] = 1
    """The cycle's number; its tag is cycle-0001 for 1. ``serm evolve`` counts it on."""
    start: datetime
    """The window's first moment, a quoted ISO time with its zone."""
    end: datetime
    """The first moment after the window."""
    every: Positive = 14
    """Days that each later window lasts: `serm evolve` takes it as soon as the log covers it."""

    @model_validator(mode="after")
    def _ordered(self) -> CycleSettings:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("start and end need a time zone, for example 2017-01-01T00:00:00Z")
        if self.start >= self.end:
            raise ValueError(f"start {self.start} is not before end {self.end}")
        return self

    @property
    def name(self) -> str:
        """The cycle's git tag, for example ``cycle-0003``."""
        return f"cycle-{self.number:04d}"

    @property
    def middle(self) -> datetime:
        """The moment between the window's two halves."""
        return self.start + (self.end - self.start) / 2
