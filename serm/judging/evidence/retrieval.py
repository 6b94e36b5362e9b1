"""Evidence for LLM judges: what a catalogue, a table or a search endpoint says about a pair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import httpx

from serm.judging import wire
from serm.judging.text import plain
from serm.pairs.bm25 import BM25
from serm.settings.judging import SearchSettings

MOST_BYTES = 4 * 2**20
"""Of a search endpoint's answer."""
MOST_TEXT = 10_000
"""Characters of a text that was found; the rest is cut."""


class Piece(NamedTuple):
    """A piece of evidence, and where it is from."""

    source: str
    text: str


class Source(Protocol):
    """One place to look."""

    name: str

    async def look_up(self, query: str, locale: str, doc_id: str, key: str | None) -> list[str]:
        """Return what is found about a pair; ``key`` links the document to outside knowledge."""
        ...


class Store(Protocol):
    """Keeps what look-ups found; ``serm.judging.llm.ledger.Ledger`` does."""

    def found(self, source: str, key: str) -> list[str] | None:
        """Return what a look-up found earlier, or None."""
        ...

    async def keep(self, source: str, key: str, found: list[str]) -> None:
        """Keep what a look-up found."""
        ...


class Retrieval:
    """All evidence about a pair, source by source."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    @property
    def failures(self) -> int:
        """Look-ups that failed so far."""
        return sum(source.failures for source in self._sources if isinstance(source, SearchSource))

    async def pieces(self, query: str, locale: str, doc_id: str, key: str | None) -> list[Piece]:
        """Return what every source finds, in the order of the sources."""
        return [
            Piece(source.name, text)
            for source in self._sources
            for text in await source.look_up(query, locale, doc_id, key)
        ]


class CatalogueSource:
    """The other documents of the locale that BM25 ranks highest for the query."""

    name = "catalogue"

    def __init__(self, locales: list[str], doc_ids: list[str], texts: list[str], count: int) -> None:
        """Take the catalogue; ``count`` documents a query are told."""
        self._count = count
        self._rows: dict[str, list[int]] = {}
        for row, locale in enumerate(locales):
            self._rows.setdefault(locale, []).append(row)
        self._doc_ids, self._texts = doc_ids, texts
        self._indexes: dict[str, BM25] = {}
        self._found: dict[tuple[str, str], list[int]] = {}

    async def look_up(self, query: str, locale: str, doc_id: str, key: str | None) -> list[str]:
        """Return the texts of the best documents that share a token with the query, without the judged one."""
        rows = self._best(query, locale) if self._count and locale in self._rows else []
        return [self._texts[row] for row in rows if self._doc_ids[row] != doc_id][: self._count]

    def _best(self, query: str, locale: str) -> list[int]:
        if (found := self._found.get((query, locale))) is not None:
            return found
        if locale not in self._indexes:
            self._indexes[locale] = BM25([self._texts[row] for row in self._rows[locale]])
        nearest = self._indexes[locale].nearest(query, self._count + 1)
        best = [self._rows[locale][place] for place in nearest]
        self._found[query, locale] = best
        return best


class TableSource:
    """A local table of texts by key (the KNOWLEDGE dataset)."""

    name = "knowledge"

    def __init__(self, keys: Iterable[str], texts: Iterable[str], count: int) -> None:
        """Take the table; at most ``count`` texts a document are told."""
        self._texts: dict[str, list[str]] = {}
        for key, text in sorted(set(zip(keys, texts, strict=True))):
            self._texts.setdefault(key, []).append(text)
        self._count = count

    async def look_up(self, query: str, locale: str, doc_id: str, key: str | None) -> list[str]:
        """Return the texts of the document's key."""
        return self._texts.get(key or "", [])[: self._count]


class SearchSource:
    """A search endpoint: ``GET url?q=<query>&locale=<locale>`` answers ``{"results": [{"text": ...}, ...]}``."""

    name = "search"

    def __init__(self, search: SearchSettings, store: Store) -> None:
        """What is found is kept in ``store``: a query is looked up once."""
        self._search, self._store = search, store
        self._places = asyncio.Semaphore(search.concurrency)
        self._under_way: dict[str, asyncio.Lock] = {}
        self.failures = 0
        """Look-ups that found nothing because the endpoint failed; they are not kept."""

    async def look_up(self, query: str, locale: str, doc_id: str, key: str | None) -> list[str]:
        """Return the first results' texts; nothing where the endpoint fails, which is counted."""
        address = str(httpx.URL(self._search.url).copy_merge_params({"q": query, "locale": locale}))
        lock = self._under_way.setdefault(address, asyncio.Lock())
        async with lock:
            found = self._store.found(self.name, address)
            if found is None:
                found = await self._fetch(address)
                if found is None:
                    self.failures += 1
                    return []
                await self._store.keep(self.name, address, found)
        if not lock.locked():
            self._under_way.pop(address, None)
        return found

    async def _fetch(self, address: str) -> list[str] | None:
        try:
            async with self._places, wire.client() as http, asyncio.timeout(self._search.timeout_seconds):
                response, raw = await wire.exchange(http, http.build_request("GET", address), MOST_BYTES)
            if not response.is_success:
                return None
            results = json.loads(raw)["results"][: self._search.count]
            return [plain(str(result["text"]), MOST_TEXT) for result in results]
        except (httpx.HTTPError, httpx.InvalidURL, OSError, wire.Unreadable):
            return None
        except (ValueError, KeyError, TypeError, RecursionError):  # an answer of another shape
            return None
