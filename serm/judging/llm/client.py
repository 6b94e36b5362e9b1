"""One request to an OpenAI-compatible endpoint, and what its failure means."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import httpx

from serm.errors import UserError
from serm.judging import wire
from serm.judging.llm.reply import Garbage, Reply, decoded, error_status, read_reply, words
from serm.judging.llm.spelling import Body
from serm.judging.text import plain, storable
from serm.settings.judging import LLMSettings

LONGEST_RETRY_AFTER = 300.0
"""Seconds; a longer Retry-After is cut to this."""
MOST_BYTES, MOST_BYTES_A_TOKEN = 2**20, 2**12
"""Of an answer: a token comes with ten alternatives, about 100 bytes each."""
MOST_CHARS_A_TOKEN = 32
FEWEST_SECRET = 8
"""Characters of a key that is masked in what comes back; a shorter one is a word."""

_SPENT = re.compile(r"insufficient.?(quota|balance|credit|fund)|credit.?balance|billing.?(hard|limit|not)", re.I)
_OF_INPUT = re.compile(r"content.?(filter|policy|management)|moderation|flagged|safety|context.?length|too long", re.I)


class Failed(Exception):
    """A request failed in a way that may pass: try again."""

    def __init__(self, status: str, *, billed: bool, busy: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(status)
        self.status = status
        self.billed = billed
        """Whether the endpoint, if it was reached, may have worked and so charges for it."""
        self.busy = busy
        """Whether the endpoint asked to be left alone (too many requests)."""
        self.retry_after = retry_after


class Refused(Exception):
    """The endpoint will not answer this request, however often it is sent."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}" if said else str(status))
        self.said = said
        """In the endpoint's words."""
        self.of_input = bool(_OF_INPUT.search(said))
        """Whether the words blame what was asked about."""
        # Only where no query is echoed: a searcher may type such words.
        self.spent = status == 402 or (status in (403, 429) and not self.of_input and bool(_SPENT.search(said)))
        """Whether the account has nothing left."""
        self.closed = status in (401, 404, 405, 407) or status < 400
        """Whether key, address or model are wrong for every request."""


def body(llm: LLMSettings, messages: list[dict[str, str]], path: int, form: Body) -> Body:
    """Return the request; ``path`` is its seed, so that each sampled path is a request of its own.

    ``form`` is the response format (``serm.judging.llm.answer``).

    An answer is kept under it, however ``Spelling`` sends it.
    """
    wanted: Body = {
        "model": llm.model,
        "messages": messages,
        "temperature": llm.temperature,
        "max_tokens": llm.max_tokens,
        "seed": path,
        "response_format": form,
    }
    return wanted | ({"logprobs": True, "top_logprobs": 10} if llm.logprobs else {})


class Client:
    """The endpoint of one judge."""

    def __init__(self, llm: LLMSettings) -> None:
        """Connect to nothing yet.

        Raises:
            UserError: the environment has no usable key where the judge needs one, or the address is none.
        """
        self._llm, self._key = llm, _key(llm)
        try:
            address = httpx.URL(llm.base_url)
        except httpx.InvalidURL as error:
            raise UserError(f"judge {llm.name}: base_url {llm.base_url!r} is no address ({error}).") from error
        self._url = address.copy_with(path=address.path.rstrip("/") + "/chat/completions")
        self._http = wire.client({"Authorization": f"Bearer {self._key}"} if self._key else None)
        self._most_bytes = MOST_BYTES + MOST_BYTES_A_TOKEN * llm.max_tokens
        self._most_chars = 4096 + MOST_CHARS_A_TOKEN * llm.max_tokens

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, request: Body, key: str, seconds_left: float, sent: Callable[[], None]) -> Reply:
        """Send one request, and wait for all of its answer.

        Args:
            request: what ``body`` returned, spelled for the endpoint.
            key: names the request to endpoints that know Idempotency-Key.
            seconds_left: until the run's time is up; the request is cut then.
            sent: called when the request begins to go out; before that nothing can be charged for it.

        Raises:
            Failed: try again later.
            Refused: do not.
        """

        async def trace(event: str, _: object) -> None:
            if event.endswith("send_request_headers.started"):
                sent()

        post = self._http.build_request(
            "POST", self._url, json=request, headers={"Idempotency-Key": key}, extensions={"trace": trace}
        )
        try:
            async with asyncio.timeout(min(self._llm.timeout_seconds, max(seconds_left, 0.0))):
                response, raw = await wire.exchange(self._http, post, self._most_bytes)
        except TimeoutError as error:
            raise Failed("timeout", billed=True) from error
        except wire.Unreadable as error:
            raise Failed(f"garbage: {error}", billed=True) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise Failed(f"connection: {self._short(str(error) or type(error).__name__)}", billed=True) from error
        answer = decoded(raw)
        if not response.is_success:
            raise self._failure(response.status_code, response.headers, answer)
        try:
            return read_reply(answer, self._clean)
        except Garbage as error:
            if (status := error_status(answer)) is not None:
                raise self._failure(status, response.headers, answer) from error
            raise Failed(f"garbage: {self._short(str(error))}", billed=True) from error

    def masked(self, text: str) -> str:
        """Return ``text`` without the judge's key, whoever put it there, and without what cannot be stored."""
        text = storable(text)
        return text.replace(self._key, "*" * len(self._key)) if len(self._key) >= FEWEST_SECRET else text

    def _clean(self, text: str) -> str:
        """Return the end of a text, where an answer stands, masked."""
        return self.masked(text[-self._most_chars - len(self._key) :])[-self._most_chars :]

    def _short(self, text: str) -> str:
        return plain(self.masked(text[:4000]), 300)

    def _failure(self, status: int, headers: httpx.Headers, answer: object) -> Exception:
        said = self._short(words(answer))
        if status < 400:
            said = f"a redirect to {self._short(headers.get('location', 'nowhere'))}, which is not followed"
        refused = Refused(status, said)
        if (status == 429 or status >= 500 or status in (408, 409, 425)) and not refused.spent:
            after = min(retry_after(headers.get("retry-after")), self._llm.patience_seconds)
            return Failed(str(refused), billed=False, busy=status == 429, retry_after=after)
        return refused


def retry_after(value: str | None) -> float:
    """Read a Retry-After header, seconds or a date (RFC 9110, 10.2.3), as seconds from now; 0 for anything else."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0


def _key(llm: LLMSettings) -> str:
    """Return the judge's key, empty where it needs none."""
    if llm.api_key_env is None:
        return ""
    key = os.environ.get(llm.api_key_env, "").strip()
    if not key:
        raise UserError(f"judge {llm.name}: {llm.api_key_env} is not set; set it to the endpoint's key.")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"judge {llm.name}: {llm.api_key_env} holds what no HTTP header can; set it to the key alone.")
    return key
