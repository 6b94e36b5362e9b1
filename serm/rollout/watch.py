"""Ticks, one after another, until a rollout is decided or the process is asked to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serm.errors import UserError
from serm.rollout.controller import Tick, Unset
from serm.rollout.record import Record

RETRY_SECONDS = 15.0
"""Until a decision is tried again that the backend did not take: a challenger that should go waits for no next look."""


def watch(
    once: Callable[[], Tick], every_seconds: float, stop: threading.Event, tell: Callable[[Record | UserError], None]
) -> Record | None:
    """Tick until the rollout has ended, and return its record; None where ``stop`` was set before.

    A tick that fails is told and tried again at the next time: a proxy or a log that is away for an hour ends no
    rollout. What was decided and is not in force is tried again soon. A tick under way is never cut short by ``stop``.

    Args:
        once: a tick.
        every_seconds: from the end of one tick to the next.
        stop: ends the watch after the tick under way.
        tell: is given each tick's record, or why it failed.
    """
    while not stop.is_set():
        wait = every_seconds
        try:
            record = once().record
        except UserError as error:
            tell(error)
            if isinstance(error, Unset):
                wait = min(every_seconds, RETRY_SECONDS)
        else:
            tell(record)
            if record.outcome != "running":
                return record
        stop.wait(wait)
    return None


@contextmanager
def until_told() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set, instead of ending the process at once; a second one does that."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def told(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, told)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
