"""What makes a function a step of the cycle: it is timed, and it returns its figures.

The command line prints the figures, and KFP components record them as metrics. They stand outside the step's
output directory, so that two runs of a cycle on the same input give the same bytes.
"""

from __future__ import annotations

import functools
import inspect
import logging
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from serm.errors import UserError

Figures = dict[str, float | int | str | bool]
P = ParamSpec("P")
_LOG = logging.getLogger(__name__)


def unfinished(out: Path, kind: str, kept: Path | None) -> Path:
    """Return where a step keeps what a killed run of it goes on from: beside ``out``, or in ``kept``.

    On a cluster each try of a step has a disk of its own, and ``kept`` is a directory of a volume that they share.
    """
    return (kept or out.parent) / f"{out.name}.{kind}"


POWERCAP = Path("/sys/class/powercap")


def step(function: Callable[P, Figures]) -> Callable[P, Figures]:
    """Add ``seconds`` (wall time) and ``peak_memory_mb`` (this process, its imports included) to the figures.

    Where the kernel lets RAPL's counters be read, ``joules`` too: what the processors took, whatever ran on them.
    Before it starts, it is tried whether ``out`` can be written, which would else be found out at its end.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def measured(*args: P.args, **kwargs: P.kwargs) -> Figures:
        out = signature.bind(*args, **kwargs).arguments.get("out")
        if isinstance(out, Path):
            _writable(out)
        start, before = time.perf_counter(), energy(POWERCAP)
        figures = function(*args, **kwargs)
        _give_back()
        figures["seconds"] = round(time.perf_counter() - start, 2)
        figures["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        if before:
            after = energy(POWERCAP)
            figures["joules"] = round(sum((after[n][0] - used) % span for n, (used, span) in before.items()) / 1e6, 1)
        _LOG.info("serm: %s", ", ".join(f"{name} {value}" for name, value in figures.items()))
        return figures

    return measured


def _give_back() -> None:
    """Return to the system what Arrow holds for later: hundreds of megabytes, beside which the next step would run."""
    import pyarrow as pa  # not above: the command line's help needs none

    pa.default_memory_pool().release_unused()


def _writable(out: Path) -> None:
    """Raise ``UserError`` where nothing can be written beside ``out``, as its atomic write needs."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another place, or make room.") from error


def energy(powercap: Path) -> dict[str, tuple[int, int]]:
    """Return each processor's counter of micro-joules and the span after which it starts again; none if unreadable."""
    counters = {}
    for zone in powercap.glob("intel-rapl:?"):
        try:
            used, span = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):  # newer kernels let only root read them
            continue
        counters[zone.name] = (used, span)
    return counters
