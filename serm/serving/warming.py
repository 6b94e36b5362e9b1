"""A catalogue's documents computed before they are asked for, a few at a time, while nobody waits."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from serm.errors import UserError
from serm.relevance.known import KnownTexts
from serm.serving.batching import Batcher
from serm.serving.documents import DocumentStore, mark
from serm.serving.served import ServedModel

_LOG = logging.getLogger(__name__)
AT_ONCE = 8
"""Documents: what a request that comes meanwhile waits for, some 25 ms on two cores."""
FULL = 0.9
"""Of the cache: what users ask for finds room, and takes none of theirs away."""
PAUSE_SECONDS = 0.02
"""While others wait."""
LOOK_SECONDS = 0.5
"""How often it looks whether a model or the store has changed."""


class Warming:
    """Goes through a document store once for each model, and again when one of them has changed."""

    def __init__(self, store: Path, models: Mapping[str, ServedModel], batcher: Batcher, known: KnownTexts) -> None:
        """Compute the documents of the file ``store``; raises ``UserError`` when it is none."""
        self._file, self._mark, self._opened = store, mark(store), 0
        self._store = DocumentStore(store)
        self._models, self._batcher, self._known = models, batcher, known

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Compute until all documents are known to all models, or the cache is full, or ``stopping`` says so."""
        done: dict[str, tuple[str, int]] = {}
        while not stopping():
            self._open_again()
            for name, model in self._models.items():
                wanted = model.model.version, self._opened
                if done.get(name) != wanted and await self._one(name, stopping):
                    done[name] = wanted
            await asyncio.sleep(LOOK_SECONDS)

    def _open_again(self) -> None:
        """Take up a store that stands in the place of the one that is open."""
        if (found := mark(self._file)) == self._mark:
            return
        self._mark = found
        try:
            before, self._store = self._store, DocumentStore(self._file)
        except UserError as error:
            _LOG.error("The documents stay as they were: %s", error)
        else:
            before.close()
            self._opened += 1

    async def _one(self, name: str, stopping: Callable[[], bool]) -> bool:
        """Go through the documents for the model ``name``; False where it was cut short, to be done again."""
        model, after, count = self._models[name].model, "", 0
        self._known.keep({one.model.frozen for one in self._models.values()})
        while self._known.bytes < FULL * self._known.max_bytes:
            if stopping() or model is not self._models[name].model:
                return False
            if self._batcher.waiting:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            try:
                found = self._store.texts_after(after, AT_ONCE)
            except sqlite3.Error as error:
                _LOG.error("%s: the documents behind %r cannot be read (%s)", name, after, error)
                break
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
