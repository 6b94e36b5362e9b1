"""Two servers on one output, real processes and concurrent clients: every answer is kept, whatever ends a server."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serm import contracts
from serm.judging.review import Item, Reviews

PROGRAM = "import sys; sys.argv[0] = 'serm'; from serm.cli import main; main()"


class Page:
    """What a browser's page does: its token, its sitting."""

    def __init__(self, process: subprocess.Popen[str], sitting: str) -> None:
        assert process.stdout
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url
        self.process = process
        self.http = httpx.Client(base_url=url[0], timeout=60)
        token = self.http.get("/").text.split('data-token="')[1].split('"')[0]
        self.http.headers.update({"x-serm-token": token, "x-serm-sitting": sitting})

    def act(self, action: str, **asked: object) -> httpx.Response:
        return self.http.post(f"/{action}", content=json.dumps(asked))


@pytest.fixture
def world(annotated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(annotated, tmp_path / "world")


@pytest.fixture
def start(world: Path) -> Iterator[Callable[[str], Page]]:
    started = []

    def one(sitting: str) -> Page:
        command = [sys.executable, "-c", PROGRAM, "review", "--port", "0", "--annotated", "out"]
        command += ["--validated", "validated", "--out", "reviewed"]
        started.append(subprocess.Popen(command, cwd=world, stdout=subprocess.PIPE, text=True))
        return Page(started[-1], sitting)

    yield one
    for process in started:
        process.kill()
        process.wait(timeout=30)


def on_disk(world: Path) -> dict[tuple[str, str, str], int]:
    rows = contracts.read(world / "reviewed", contracts.JUDGMENTS).to_pylist()
    return {(row["query"], row["locale"], row["doc_id"]): row["grade"] for row in rows}


def answers(world: Path) -> list[dict]:
    return [json.loads(line) for line in (world / "reviewed" / "answers.jsonl").read_text().splitlines()]


def test_two_servers_and_concurrent_clients_lose_no_grade(world: Path, start: Callable[[str], Page]) -> None:
    pages = [start("a"), start("b")]
    items = list(Reviews(world / "out", world / "validated", world / "reviewed").items.values())
    requests = [(number, item, (number + turn) % 4) for turn in range(6) for number, item in enumerate(items)]

    def grade(request: tuple[int, Item, int]) -> int:
        _, item, value = request
        return pages[value % 2].act("grade", identity=item.identity, grade=value).status_code

    with ThreadPoolExecutor(8) as clients:
        assert set(clients.map(grade, requests)) == {200}
    kept = [((line["query"], line["locale"], line["doc_id"]), line["grade"]) for line in answers(world)]
    assert sorted(kept) == sorted((item.key, value) for _, item, value in requests)
    assert on_disk(world) == dict(kept)  # the newest of each pair
    assert [page.http.get("/state").json()["graded"] for page in pages] == [len(items)] * 2


def test_the_second_reviewer_is_shown_what_is_left_and_both_answers_to_a_pair_are_kept(
    world: Path, start: Callable[[str], Page]
) -> None:
    one, other = start("a"), start("b")
    shown = [page.http.get("/state").json()["pair"]["identity"] for page in (one, other)]
    assert shown[0] == shown[1]
    second = one.act("grade", identity=shown[0], grade=0, note="no").json()["pair"]["identity"]
    one.act("grade", identity=second, grade=1)
    told = other.act("grade", identity=shown[0], grade=3, note="yes").json()
    assert (told["judged"]["grade"], told["judged"]["note"]) == (3, "yes")
    assert told["pair"]["identity"] not in (shown[0], second)
    assert [(line["grade"], line["note"]) for line in answers(world)] == [(0, "no"), (1, ""), (3, "yes")]
    assert len({line["by"] for line in answers(world)}) == 2
    assert sorted(on_disk(world).values()) == [1, 3]
    one.act("undo")
    refused = one.act("undo")
    assert (refused.status_code, "their grade stands" in refused.text) == (409, True)
    assert sorted(on_disk(world).values()) == [3]
    other.act("undo")
    assert sorted(on_disk(world).values()) == [0]


def test_a_killed_server_has_kept_every_grade_that_it_confirmed(world: Path, start: Callable[[str], Page]) -> None:
    items = list(Reviews(world / "out", world / "validated", world / "reviewed").items.values())
    confirmed: dict[tuple[str, str, str], int] = {}
    for kill in range(3):
        page = start("a")
        mine = items[kill * 3 : kill * 3 + 3]

        def grade(item, page: Page = page) -> None:
            try:
                if page.act("grade", identity=item.identity, grade=2).status_code == 200:
                    confirmed[item.key] = 2
            except httpx.HTTPError:
                pass

        with ThreadPoolExecutor(3) as clients:
            saved = [clients.submit(grade, item) for item in mine]
            saved[0].result(timeout=60)
            page.process.send_signal(signal.SIGKILL)
        assert confirmed.items() <= on_disk(world).items()
        assert {tuple(line[name] for name in ("query", "locale", "doc_id")) for line in answers(world)} == set(
            on_disk(world)
        )
    assert len(confirmed) >= 3
