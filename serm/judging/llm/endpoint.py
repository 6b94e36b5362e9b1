"""What the judges of one endpoint and model share: whether it answers, and how it wants to be asked."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from serm.judging.llm.limits import Breaker
from serm.judging.llm.spelling import Spelling
from serm.settings.judging import LLMSettings

_LOG = logging.getLogger(__name__)


@dataclass
class Endpoint:
    """One model at one address."""

    breaker: Breaker
    """Shared by all models at the address."""
    spelling: Spelling
    met: bool = False
    """Whether a request has come back in any way but refused; until then requests go out one at a time."""
    first: asyncio.Lock = field(default_factory=asyncio.Lock)

    @staticmethod
    def of(llm: LLMSettings, breaker: Breaker | None = None) -> Endpoint:
        """Return a judge's endpoint, unmet."""
        return Endpoint(breaker or Breaker(llm.patience_seconds), Spelling.of(llm))

    def learn(self, spelling: Spelling, judge: str) -> None:
        """Ask in this way from now on, as it was answered; say so once."""
        if changed := self.spelling.changed(spelling):
            self.spelling = spelling
            told = ", ".join(f"{name}: {'null' if v is None else str(v).lower()}" for name, v in changed.items())
            _LOG.warning(
                "serm: judge %s: its endpoint refuses the request as it is set; from here on it is asked with %s. "
                "Say so in params.yaml's judging.llms, to spare the try.",
                judge,
                told,
            )
