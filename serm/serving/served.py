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

    def __init__(self, name: str, location: Path | str, batcher: Batcher, known: KnownTexts) -> None:
        """Serve, once it is loaded, the model at ``location``: a directory, or as ``serm.relevance.location`` says."""
        super().__init__(name)
        self.location = location
        self._batcher = batcher
        self._known = known

    def load(self) -> bool:
        """Read the model, which scores its golden batch before it is believed; raises ``UserError`` when it cannot.

        Where one is served already, that answers until then, and for good if the new one cannot be read. Requests that
        are being answered keep the model that they began with.
        """
        model = relevance.load_scorer(self.location)
        model.known = self._known
        self.model = model
        self.ready = True
        return True

    async def preprocess(self, payload: Read, headers: Mapping[str, str] | None = None) -> Request:
        """Read a body, off the event loop; raises ``InvalidInput`` or ``TooLarge``."""
        return await asyncio.get_running_loop().run_in_executor(READING, payload, self._batcher.settings)

    async def predict(self, payload: Request, headers: Mapping[str, str] | None = None) -> tuple[Request, Scored, str]:
        """Score a request's pairs; return the version that did, too. Raises ``Busy``, ``Late`` or ``Stopping``."""
        seconds = deadline(headers or {})
        model = self.model
        scored = await self._batcher.score(self.name, model, payload.queries, payload.documents, seconds)
        return payload, scored, model.version

    async def postprocess(
        self, result: tuple[Request, Scored, str], headers: Mapping[str, str] | None = None
    ) -> Answered:
        """Write the answer."""
        request, scored, version = result
        return Answered(request, scored, self.name, version, request.answer(scored, self.name, version))

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the inputs."""
        return v2.input_types()

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the v2 metadata of the outputs."""
        return v2.output_types()


def deadline(headers: Mapping[str, str]) -> float:
    """Return the seconds that a request's proxy waits for its answer; infinity where it does not say."""
    milliseconds = headers.get(DEADLINE, "")
    short = milliseconds.isascii() and milliseconds.isdecimal() and len(milliseconds) < 10
    return int(milliseconds) / 1000 if short and int(milliseconds) else float("inf")
