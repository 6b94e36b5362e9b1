"""The geometry of the page's charts: values to pixels; charts.html.jinja draws them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear axis from the value ``low`` at pixel ``start`` to ``high`` at pixel ``end``."""

    low: float
    high: float
    start: float
    end: float
    step: float

    def at(self, value: float) -> float:
        """Return the pixel of ``value``."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The pixel and the label of each tick."""
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        steps = round((self.high - self.low) / self.step)
        values = [self.low + number * self.step for number in range(steps + 1)]
        return [(self.at(value), f"{value:.{digits}f}".replace("-", "−")) for value in values]


def axis(values: Iterable[float], start: float, end: float, ticks: int = 4) -> Axis:
    """Return an axis over ``values`` whose ends and about ``ticks`` steps are round numbers."""
    all_values = list(values)
    low, high = min(all_values), max(all_values)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / ticks
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end, step)


def columns(number: int, start: float, end: float) -> list[float]:
    """Return the pixels of the centres of ``number`` columns of equal width."""
    width = (end - start) / number
    return [round(start + width * (column + 0.5), 1) for column in range(number)]


@dataclass(frozen=True)
class Curve:
    """A line over positions 1, 2, 3, ...; ``dots`` in pixels."""

    dots: list[tuple[float, float]]
    vertical: Axis
    first: str
    last: str


def curve(values: Sequence[float], width: float = 260, height: float = 120) -> Curve:
    """Return the line through ``values``, from zero upward."""
    vertical = axis([0.0, *values], height - 22, 8, ticks=2)
    xs = columns(len(values), 34, width - 4)
    dots = [(x, vertical.at(value)) for x, value in zip(xs, values, strict=True)]
    return Curve(dots, vertical, "1", str(len(values)))
