"""How many examples a property test draws: all of them in ``make test``, a fifth in ``make quick``."""

from __future__ import annotations


class Share:
    """Set by ``--quick``, before a test file is imported."""

    quick = False


def examples(number: int) -> int:
    """Return ``number``; in ``make quick`` a fifth of it."""
    return max(number // 5, 2) if Share.quick else number
