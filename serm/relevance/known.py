"""Texts that the frozen part of a model has computed already, in memory within a bound.

Query and document meet at the upper layers only, so what stands below them is a text's own, whatever it is scored
with: a server computes it once for a document that it is asked about again and again. What the steps of a cycle keep on
disk (``encodings``) is for whole tables of texts in steady batches; this is for one text at a time, in any batch.
Behind what is in memory there may be files that hold a whole catalogue (``serm.serving.states``).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Key = tuple[str, bytes]
"""The frozen part of a model that read a text, and the hash that ``key_of`` makes of the text."""
ENTRY_BYTES = 1_000
"""What an entry takes beside its tensors, about."""


@dataclass(frozen=True, eq=False, slots=True)
class KnownText:
    """What the frozen part makes of one text: tensors of torch's, or numpy's where an export computed them."""

    vector: Any
    """[dim] fp32, unit norm."""
    states: Any
    """[tokens, dim] fp16, as they enter the layer at which query and document meet."""
    cut: bool
    """Whether the text is longer than what the encoder reads."""

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return ENTRY_BYTES + int(self.vector.nbytes) + int(self.states.nbytes)


class TextStore(Protocol):
    """Texts that were computed beforehand, and stand in a file."""

    def get(self, key: Key) -> KnownText | None:
        """Return what the file holds of the text; several threads may ask."""
        ...


def key_of(kind: str, text: str) -> bytes:
    """Return what a text of a kind is kept under."""
    return hashlib.sha256(f"{kind}\n{text}".encode("utf-8", "surrogatepass")).digest()


class KnownTexts:
    """The texts that were asked for last, as many as have room; several threads may use it, and several models."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.stored = 0
        """Of the hits, those that came from one of the ``stores``."""
        self.stores: Sequence[TextStore] = ()
        self._texts: OrderedDict[Key, KnownText] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, key: Key) -> KnownText | None:
        """Return what is known of the text, and count whether it was."""
        found = self.peek(key)
        with self._lock:
            self.hits += found is not None
            self.misses += found is None
        return found

    def peek(self, key: Key) -> KnownText | None:
        """Return what is known of the text, which becomes the last to go."""
        with self._lock:
            found = self._texts.get(key)
            if found is not None:
                self._texts.move_to_end(key)
                return found
        for store in self.stores:
            if found := store.get(key):
                self.stored += 1
                self.put(key, found)
                return found
        return None

    def keep(self, frozen: Collection[str]) -> None:
        """Forget the texts of all but these ``frozen`` parts of models (``Servable.frozen``): others serve no more."""
        with self._lock:
            for key in [key for key in self._texts if key[0] not in frozen]:
                self.bytes -= self._texts.pop(key).bytes

    def put(self, key: Key, text: KnownText) -> None:
        """Keep a text, in the place of those not asked for the longest; one larger than all room is not kept."""
        if text.bytes > self.max_bytes:
            return
        with self._lock:
            before = self._texts.pop(key, None)
            self.bytes += text.bytes - (before.bytes if before else 0)
            self._texts[key] = text
            while self.bytes > self.max_bytes:
                self.bytes -= self._texts.popitem(last=False)[1].bytes
