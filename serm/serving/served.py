"""A relevance model under a name, as KServe's ``Model`` has it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kserve import Model

from serm import relevance
from serm.relevance.known import KnownTexts
from serm.serving.batching import Batcher
from serm.serving.protocols import v2
from serm.serving.protocols.request import Answered, Read, Request, Scored

#: Bodies are read one after the other, so that at most one is in memory as bytes and as texts.
READING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")
#: Envoy's, so Istio's and most gateways': in milliseconds.
DEADLINE = "x-envoy-expected-rq-timeout-ms"


class ServedModel(Model):  # type: ignore[misc]
    """A saved relevance model under a name; KServe's ``Model`` calls the three phases, and measures them."""

    def __init__(self, name: str, path: Path, batcher: Batcher, known: KnownTexts) -> None:
        super().__init__(name)
        self.path = path
        self._batcher = batcher
        self._known = known

    def load(self) -> bool:
        """Read the model, which scores a pair before it is believed; raises ``UserError`` when it cannot."""
        self.model = relevance.load_scorer(self.path)
        self.model.known = self._known
        self.ready = True
        return True

    async def preprocess(self, payload: Read, headers: Mapping[str, str] | None = None) -> Request:
        """Read a body, off the event loop; raises ``InvalidInput`` or ``TooLarge``."""
        return await asyncio.get_running_loop().run_in_executor(READING, payload, self._batcher.settings)

    async def predict(self, payload: Request, headers: Mapping[str, str] | None = None) -> tuple[Request, Scored]:
        """Score a request's pairs; raises ``Busy``, ``Late`` or ``Stopping``."""
        seconds = _seconds((headers or {}).get(DEADLINE, ""))
        scored = await self._batcher.score(self.name, self.model, payload.queries, payload.documents, seconds)
        return payload, scored

    async def postprocess(self, result: tuple[Request, Scored], headers: Mapping[str, str] | None = None) -> Answered:
        """Write the answer."""
        request, scored = result
        version = self.model.version
        return Answered(request, scored, self.name, version, request.answer(scored, self.name, version))

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the inputs."""
        return v2.input_types()

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the outputs."""
        return v2.output_types()


def _seconds(milliseconds: str) -> float:
    short = milliseconds.isascii() and milliseconds.isdecimal() and len(milliseconds) < 10
    return int(milliseconds) / 1000 if short and int(milliseconds) else float("inf")
