"""Hard caps on money, calls and time: reserved before a call, settled after it, so that none is ever overrun."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from serm.settings.judging import BudgetSettings, LLMSettings

NANO = 1_000_000_000
"""Money is counted in whole billionths, so that sums are exact."""
TOKENS_OF_A_MESSAGE = 8
"""What a chat template puts around a message, rounded up."""


class Exhausted(Exception):
    """A cap leaves no room for one more call; the text names it: money, calls or time."""


def most_input_tokens(messages: list[dict[str, str]]) -> int:
    """Bound the tokens of a prompt from above: byte-level vocabularies give at most one token a byte of UTF-8."""
    return sum(len(m["content"].encode()) + TOKENS_OF_A_MESSAGE for m in messages)


def likely_input_tokens(messages: list[dict[str, str]]) -> int:
    """Estimate the tokens of a prompt: one for three bytes of UTF-8, and the template's around each message."""
    return sum(math.ceil(len(m["content"].encode()) / 3) + TOKENS_OF_A_MESSAGE for m in messages)


def price(llm: LLMSettings, input_tokens: int, output_tokens: int) -> int:
    """Return what a call costs, in billionths, rounded up."""
    millionths = input_tokens * llm.price_per_million_input + output_tokens * llm.price_per_million_output
    return math.ceil(millionths * (NANO // 1_000_000))


class Budget:
    """What a cycle's calls may still cost. One event loop uses it: between two awaits nothing can come between."""

    def __init__(
        self, caps: BudgetSettings, spent: int, calls: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Go on from what earlier runs of the cycle spent (billionths) and called."""
        self._caps, self._clock, self._start = caps, clock, clock()
        self.committed = spent
        """Spent or reserved, in billionths."""
        self.calls = calls

    def reserve(self, most: int) -> None:
        """Set aside one call that costs at most ``most`` billionths.

        Raises:
            Exhausted: a cap does not allow it.
        """
        caps = self._caps
        if caps.seconds is not None and self.seconds_left() <= 0:
            raise Exhausted("time")
        if caps.calls is not None and self.calls >= caps.calls:
            raise Exhausted("calls")
        if caps.money is not None and self.committed + most > round(caps.money * NANO):
            raise Exhausted("money")
        self.committed += most
        self.calls += 1

    def settle(self, reserved: int, cost: int, *, called: bool = True) -> None:
        """Replace a reservation by what the call cost; ``called`` is false where it never went out."""
        self.committed += cost - reserved
        self.calls -= not called

    def seconds_left(self) -> float:
        """Return the wall time that is left, ``inf`` without a cap."""
        return math.inf if self._caps.seconds is None else self._start + self._caps.seconds - self._clock()
