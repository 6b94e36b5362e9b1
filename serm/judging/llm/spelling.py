"""How an endpoint wants a request spelled: what it refuses is said another way or left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serm.settings.judging import RESPONSE_FORMATS, TOKEN_LIMITS, LLMSettings

Body = dict[str, Any]

# What an error's words say of the field that they refuse.
_NAMED = {
    "response_format": re.compile(r"response.?format|json.?(schema|object)|structured.?output|grammar", re.I),
    "token_limit": re.compile(r"max_(completion_)?tokens", re.I),
    "seed": re.compile(r"\bseed\b", re.I),
    "logprobs": re.compile(r"log.?probs", re.I),
    "temperature": re.compile(r"\btemperature\b", re.I),
}


@dataclass(frozen=True)
class Spelling:
    """How requests to one endpoint are spelled, and what may still be tried."""

    options: Mapping[str, tuple[Any, ...]]
    """By setting of ``LLMSettings``: the value in use, then those to fall back to, in order."""

    @staticmethod
    def of(llm: LLMSettings) -> Spelling:
        """Return the spelling that the settings ask for."""
        limit = TOKEN_LIMITS.index(llm.token_limit)
        return Spelling(
            {
                "response_format": RESPONSE_FORMATS[RESPONSE_FORMATS.index(llm.response_format) :],
                "token_limit": TOKEN_LIMITS[limit:] + TOKEN_LIMITS[:limit],
                "seed": (True, False) if llm.seed else (False,),
                "logprobs": (True, False) if llm.logprobs else (False,),
                "temperature": (None,) if llm.temperature is None else (llm.temperature, None),
            }
        )

    def spell(self, body: Body) -> Body:
        """Return what goes over the wire for a request."""
        spelled = dict(body)
        limit, form = spelled.pop("max_tokens"), self._used("response_format")
        spelled[self._used("token_limit")] = limit
        if form == "json_object":
            spelled["response_format"] = {"type": "json_object"}
        elif form == "none":
            del spelled["response_format"]
        for field, unwanted in (("seed", ("seed",)), ("logprobs", ("logprobs", "top_logprobs"))):
            if not self._used(field):
                spelled = {name: value for name, value in spelled.items() if name not in unwanted}
        if self._used("temperature") is None:
            del spelled["temperature"]
        return spelled

    def without(self, words: str) -> Spelling | None:
        """Return the next spelling for the first field that an error's ``words`` name; None where none is left."""
        for field, named in _NAMED.items():
            if len(self.options[field]) > 1 and named.search(words):
                return Spelling({**self.options, field: self.options[field][1:]})
        return None

    def changed(self, other: Spelling) -> dict[str, Any]:
        """Return the settings in which ``other`` differs, with its values."""
        return {f: other._used(f) for f in self.options if self._used(f) != other._used(f)}

    def _used(self, field: str) -> Any:
        return self.options[field][0]
