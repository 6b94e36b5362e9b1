"""How numbers are written on the page; None, a number that history does not have, is said to be not available."""

from __future__ import annotations

from markupsafe import Markup

Number = float | int | None

MISSING = Markup('<span class="missing">not available</span>')


def count(value: Number) -> str:
    """1234567 -> 1,234,567."""
    return MISSING if value is None else f"{value:,.0f}"


def share(value: Number) -> str:
    """0.1234 -> 12.3 %; what is not nothing is not written as nothing: < 0.1 %."""
    if value is None:
        return MISSING
    text = "< 0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def points(value: Number) -> str:
    """A difference of two shares: 0.1234 -> +12.3 points."""
    return MISSING if value is None else f"{signed(100 * value, 1)} points"


def decimal(value: Number, digits: int = 3) -> str:
    """0.12345 -> 0.123."""
    return MISSING if value is None else _minus(f"{value:.{digits}f}")


def untold(value: Number, digits: int = 3) -> str:
    """As ``decimal``, but nothing for a number that is not told because it would say nothing."""
    return "" if value is None else decimal(value, digits)


def signed(value: Number, digits: int = 3) -> str:
    """0.12345 -> +0.123; what rounds to nothing has no sign."""
    if value is None:
        return MISSING
    text = f"{value:+.{digits}f}"
    return _minus(text if float(text) else text[1:])


def seconds(value: Number) -> str:
    """83.2 -> 1 min 23 s; 4.26 -> 4.3 s."""
    if value is None:
        return MISSING
    if value < 9.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def megabytes(value: Number) -> str:
    """1234.5 -> 1,234 MB."""
    return MISSING if value is None else f"{value:,.0f} MB"


def known(value: object) -> object:
    """Return ``value``, or that it is not available."""
    return MISSING if value is None or value == "" else value


FILTERS = {
    function.__name__: function
    for function in (count, share, points, decimal, untold, signed, seconds, megabytes, known)
}


def _minus(text: str) -> str:
    return text.replace("-", "−")
