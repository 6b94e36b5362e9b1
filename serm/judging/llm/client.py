"""One request to an OpenAI-compatible endpoint, and what its failure means."""

from __future__ import annotations

import asyncio
import math
import os
import time
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from serm.errors import UserError
from serm.judging.llm.answer import RESPONSE_FORMAT, label_probabilities
from serm.judging.llm.ledger import Reply
from serm.settings.judging import LLMSettings

Body = dict[str, Any]
LONGEST_RETRY_AFTER = 300.0
"""Seconds; a longer Retry-After is cut to this."""


class Failed(Exception):
    """A request failed in a way that may pass: try again."""

    def __init__(self, status: str, *, billed: bool, alive: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(status)
        self.status = status
        self.billed = billed
        """Whether the endpoint may have worked, and so charges, for it."""
        self.alive = alive
        """Whether the endpoint answered in good order (too many requests)."""
        self.retry_after = retry_after


class Refused(Exception):
    """The endpoint will not answer this request, however often it is sent."""


def body(llm: LLMSettings, messages: list[dict[str, str]], path: int) -> Body:
    """Return the request; ``path`` is its seed, so that each sampled path is a request of its own."""
    wanted: Body = {
        "model": llm.model,
        "messages": messages,
        "temperature": llm.temperature,
        "max_tokens": llm.max_tokens,
        "seed": path,
        "response_format": RESPONSE_FORMAT,
    }
    return wanted | ({"logprobs": True, "top_logprobs": 10} if llm.logprobs else {})


class Client:
    """The endpoint of one judge."""

    def __init__(self, llm: LLMSettings) -> None:
        """Connect to nothing yet.

        Raises:
            UserError: the environment has no key where the judge needs one.
        """
        key = os.environ.get(llm.api_key_env) if llm.api_key_env else "none"
        if not key:
            raise UserError(f"judge {llm.name}: {llm.api_key_env} is not set; set it to the endpoint's key.")
        self._llm = llm
        # The client's own retries would go past the limits, the budget and the ledger.
        self._openai = openai.AsyncOpenAI(
            base_url=llm.base_url, api_key=key, max_retries=0, timeout=llm.timeout_seconds
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    async def send(self, request: Body, key: str, seconds_left: float) -> Reply:
        """Send one request, and wait for all of its answer.

        Args:
            request: what ``body`` returned.
            key: names the request to endpoints that know Idempotency-Key.
            seconds_left: until the run's time is up; the request is cut then.

        Raises:
            Failed: try again later.
            Refused: do not.
            UserError: the key, the address or the model's name is wrong.
        """
        try:
            async with asyncio.timeout(min(self._llm.timeout_seconds, max(seconds_left, 0.0))):
                # Not chat.completions.create: it walks through each message again, a fifth of a call's CPU time.
                answer = await self._openai.post(
                    "/chat/completions",
                    cast_to=ChatCompletion,
                    body=request,
                    options={"headers": {"Idempotency-Key": key}},
                )
        except openai.APIStatusError as error:
            raise self._of_status(error) from error
        except (TimeoutError, openai.APITimeoutError) as error:
            raise Failed("timeout", billed=True) from error
        except openai.APIConnectionError as error:
            refused = "connect" in type(error.__cause__).__name__.lower()
            raise Failed(f"connection: {_short(error.__cause__ or error)}", billed=not refused) from error
        except (openai.APIError, ValueError, TypeError, AttributeError) as error:
            raise Failed(f"garbage: {_short(error)}", billed=True) from error
        return _reply(answer)

    def _of_status(self, error: openai.APIStatusError) -> Exception:
        code = error.status_code
        if code in (401, 403, 404):
            return UserError(
                f"judge {self._llm.name}: {self._llm.base_url} answers {code} ({_short(error)});"
                " check base_url, model and the key in params.yaml's judging.llms."
            )
        if code == 429 or code >= 500 or code in (408, 409, 425):
            after = retry_after(error.response.headers.get("retry-after"))
            return Failed(str(code), billed=False, alive=code == 429, retry_after=after)
        return Refused(f"{code}: {_short(error)}")


def retry_after(value: str | None) -> float:
    """Read a Retry-After header, seconds or a date (RFC 9110, 10.2.3), as seconds from now; 0 for anything else."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0


def _reply(answer: ChatCompletion) -> Reply:
    try:
        choice = answer.choices[0]
        content = choice.message.content or ""
        tokens = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
        of_tokens = label_probabilities([(t.token, {a.token: a.logprob for a in t.top_logprobs}) for t in tokens])
        usage = answer.usage
        if usage is None:
            return Reply(content, of_tokens)
        return Reply(content, of_tokens, usage.prompt_tokens, usage.completion_tokens)
    except (AttributeError, IndexError, TypeError) as error:
        raise Failed(f"garbage: {_short(error)}", billed=True) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
