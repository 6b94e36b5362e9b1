"""What LLM judges are shown beside a pair, and that a search endpoint is asked once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from serm.judging.evidence.retrieval import CatalogueSource, Piece, Retrieval, SearchSource, TableSource
from serm.judging.llm.ledger import Ledger
from serm.local_server import LocalServer
from serm.settings.judging import SearchSettings

TEXTS = ["red cat", "cat face", "blue dog", "rote Katze"]
IDS = ["a", "b", "c", "d"]


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []
    status = 200

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        found = [{"text": f"{query['q'][0]} in {query['locale'][0]}, {n}"} for n in range(5)]
        self.wfile.write(json.dumps({"results": found}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.asked, Handler.status = [], 200
    server = LocalServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/search?kind=web"
    server.shutdown()


def test_the_catalogue_and_the_table_speak_of_other_documents_and_of_the_key() -> None:
    catalogue = CatalogueSource(["en", "en", "en", "de"], IDS, TEXTS, 2)
    retrieval = Retrieval([catalogue, TableSource(["k", "k", "other"], ["purrs", "meows", "barks"], 5)])
    pieces = asyncio.run(retrieval.pieces("cat", "en", "a", "k"))
    assert pieces == [Piece("catalogue", "cat face"), Piece("knowledge", "meows"), Piece("knowledge", "purrs")]
    assert asyncio.run(retrieval.pieces("xyz", "en", "a", None)) == []
    assert asyncio.run(retrieval.pieces("cat", "fr", "a", None)) == []


def test_a_search_endpoint_is_asked_once_for_a_query(url: str, tmp_path: Path) -> None:
    async def look_up(source: SearchSource) -> list[list[str]]:
        queries = ["a cat & more", "a cat & more", "dog"]
        return await asyncio.gather(*(source.look_up(query, "en", "x", None) for query in queries))

    search = SearchSettings(url=url, count=2)
    for _ in range(2):
        ledger = Ledger(tmp_path / "ledger.sqlite")
        found = asyncio.run(look_up(SearchSource(search, ledger)))
        ledger.close()
        assert found[0] == found[1] == ["a cat & more in en, 0", "a cat & more in en, 1"]
    assert len(Handler.asked) == 2
    assert all("kind=web" in path for path in Handler.asked)


def test_a_search_endpoint_that_fails_costs_no_run(url: str, tmp_path: Path) -> None:
    Handler.status = 503
    ledger = Ledger(tmp_path / "ledger.sqlite")
    source = SearchSource(SearchSettings(url=url), ledger)
    assert asyncio.run(source.look_up("cat", "en", "x", None)) == []
    assert source.failures == 1
    Handler.status = 200
    assert asyncio.run(source.look_up("cat", "en", "x", None))
    ledger.close()
