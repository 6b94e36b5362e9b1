"""How fast a judge may ask: requests and tokens in any minute, requests in flight, and a breaker for dead endpoints."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

MINUTE = 60.0
FAILURES = 5
"""Failures in a row that open the breaker."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between probes of an endpoint that does not answer; the pause doubles."""

Clock = Callable[[], float]


class Window:
    """At most ``limit`` units in any minute, counted exactly (a log of the last minute, not a bucket)."""

    def __init__(self, limit: int, clock: Clock = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._log: deque[list[float]] = deque()
        self._used = 0.0

    def wait(self, units: float) -> float:
        """Return the seconds until ``units`` more may pass; more than the limit counts as the limit."""
        now = self._clock()
        while self._log and self._log[0][0] + MINUTE <= now:
            self._used -= self._log.popleft()[1]
        left, pause = self._used, 0.0
        for moment, taken in self._log:
            if left + min(units, self._limit) <= self._limit:
                break
            left, pause = left - taken, moment + MINUTE - now
        return pause

    def take(self, units: float) -> None:
        """Count ``units`` from now on."""
        self._log.append([self._clock(), min(units, self._limit)])
        self._used += self._log[-1][1]


class Limits:
    """One judge's share of its endpoint."""

    def __init__(self, requests_per_minute: int, tokens_per_minute: int, concurrency: int) -> None:
        self._requests, self._tokens = Window(requests_per_minute), Window(tokens_per_minute)
        self._places = asyncio.Semaphore(concurrency)
        self._turn = asyncio.Lock()
        self._not_before = 0.0

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Wait, first come first served, until a request of so many tokens may go out; hold its place meanwhile."""
        async with self._places:
            async with self._turn:
                while (pause := self._pause(tokens)) > 0:
                    await asyncio.sleep(pause)
                self._requests.take(1)
                self._tokens.take(tokens)
            yield

    def hold(self, seconds: float) -> None:
        """Let no request out for so long: the endpoint said so (Retry-After)."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _pause(self, tokens: int) -> float:
        return max(self._requests.wait(1), self._tokens.wait(tokens), self._not_before - time.monotonic())


class Dead(Exception):
    """An endpoint has not answered for longer than its judge is patient, or takes no more calls."""


class Breaker:
    """Keeps calls from an endpoint that fails: opens after ``FAILURES`` in a row, then lets one probe at a time by."""

    def __init__(self, patience: float, clock: Clock = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._failures = 0
        self._since: float | None = None
        """The first failure since the last answer."""
        self._busy = False
        self._pause = FIRST_PAUSE
        self._probe = asyncio.Lock()
        self.reason = ""
        """What the endpoint last failed with."""

    @property
    def _open(self) -> bool:
        return self._failures >= FAILURES

    def check(self) -> None:
        """Raise ``Dead`` where no probe is worth it any more.

        An endpoint that says itself that it is busy needs no ``FAILURES`` for that: what it asks to wait may be long.
        """
        if self._since is not None and (self._open or self._busy) and self._clock() - self._since > self._patience:
            raise Dead(f"the endpoint does not answer ({self.reason}).")

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Pass at once while closed; else wait for one's turn to probe.

        Raises:
            Dead: the endpoint has failed for longer than ``patience`` seconds.
        """
        if not self._open:
            yield
            return
        async with self._probe:
            if self._open:
                self.check()
                await asyncio.sleep(min(self._pause, self._patience))
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            yield

    def succeeded(self) -> None:
        """The endpoint answered: close."""
        self._failures, self._since, self._busy, self._pause = 0, None, False, FIRST_PAUSE

    def failed(self, reason: str, *, busy: bool = False) -> None:
        """The endpoint did not answer, or only that it is ``busy``."""
        self._failures += 1
        self._busy, self.reason = busy, reason
        if self._since is None:
            self._since = self._clock()
