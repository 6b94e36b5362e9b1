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
    async def place(self, tokens: int) -> AsyncIterator[None]:
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
    """An endpoint has not answered for longer than its judge is patient."""


class Breaker:
    """Keeps calls from an endpoint that fails: opens after ``FAILURES`` in a row, then lets one probe at a time by."""

    def __init__(self, patience: float, clock: Clock = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._failures = 0
        self._opened: float | None = None
        self._pause = FIRST_PAUSE
        self._probe = asyncio.Lock()
        self.reason = ""
        """What the endpoint last failed with."""

    def check(self) -> None:
        """Raise ``Dead`` where no probe is worth it any more."""
        if self._opened is not None and self._clock() - self._opened > self._patience:
            raise Dead(self.reason)

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Pass at once while closed; else wait for one's turn to probe.

        Raises:
            Dead: the endpoint has failed for longer than ``patience`` seconds.
        """
        if self._opened is None:
            yield
            return
        async with self._probe:
            if self._opened is not None:
                self.check()
                await asyncio.sleep(min(self._pause, self._patience))
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            yield

    def succeeded(self) -> None:
        """The endpoint answered: close."""
        self._failures, self._opened, self._pause = 0, None, FIRST_PAUSE

    def failed(self, reason: str) -> None:
        """The endpoint did not answer."""
        self._failures += 1
        self.reason = reason
        if self._failures >= FAILURES and self._opened is None:
            self._opened = self._clock()
