"""What makes a function a step of the cycle: it is timed, and it returns its figures.

The command line prints the figures, and KFP components record them as metrics. They stand outside the step's
output directory, so that two runs of a cycle on the same input give the same bytes.
"""

from __future__ import annotations

import functools
import logging
import resource
import time
from collections.abc import Callable
from typing import ParamSpec

Figures = dict[str, float | int | str | bool]
P = ParamSpec("P")
_LOG = logging.getLogger(__name__)


def step(function: Callable[P, Figures]) -> Callable[P, Figures]:
    """Add ``seconds`` (wall time) and ``peak_memory_mb`` (this process, its imports included) to the figures."""

    @functools.wraps(function)
    def measured(*args: P.args, **kwargs: P.kwargs) -> Figures:
        start = time.perf_counter()
        figures = function(*args, **kwargs)
        figures["seconds"] = round(time.perf_counter() - start, 2)
        figures["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        _LOG.info("serm: %s", ", ".join(f"{name} {value}" for name, value in figures.items()))
        return figures

    return measured
