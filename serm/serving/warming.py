"""A catalogue's documents computed before they are asked for, a few at a time, while nobody waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from serm.relevance.known import KnownTexts
from serm.serving.batching import Batcher
from serm.serving.documents import DocumentStore
from serm.serving.served import ServedModel

_LOG = logging.getLogger(__name__)
AT_ONCE = 8
"""Documents: what a request that comes meanwhile waits for, some 25 ms on two cores."""
FULL = 0.9
"""Of the cache: what users ask for finds room, and takes none of theirs away."""
PAUSE_SECONDS = 0.02
"""While others wait."""
LOOK_SECONDS = 0.5
"""How often it looks whether a model has changed."""


class Warming:
    """Goes through a document store once for each model, and again when one has changed."""

    def __init__(self, store: Path, models: Mapping[str, ServedModel], batcher: Batcher, known: KnownTexts) -> None:
        """Compute the documents of the file ``store``; raises ``UserError`` when it is none."""
        self._store = DocumentStore(store)
        self._models, self._batcher, self._known = models, batcher, known

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Compute until all documents are known to all models, or the cache is full, or ``stopping`` says so."""
        done: dict[str, str] = {}
        while not stopping():
            for name, model in self._models.items():
                version = model.model.version
                if done.get(name) != version and await self._one(name, stopping):
                    done[name] = version
            await asyncio.sleep(LOOK_SECONDS)

    async def _one(self, name: str, stopping: Callable[[], bool]) -> bool:
        """Go through the documents for the model ``name``; False where it was cut short, to be done again."""
        model, after, count = self._models[name].model, "", 0
        while self._known.bytes < FULL * self._known.max_bytes:
            if stopping() or model is not self._models[name].model:
                return False
            if self._batcher.waiting:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            found = self._store.texts_after(after, AT_ONCE)
            if not found:
                break
            after = list(found)[-1]
            try:
                await self._batcher.prepare(model, list(found.values()))
            except Exception as error:  # a request for one of them tells its client, and goes to the log whole
                _LOG.error("%s: documents up to %r are not computed: %s", name, after, type(error).__name__)
                continue
            count += len(found)
        _LOG.info("%s: %d documents are computed before they are asked for", name, count)
        return True
