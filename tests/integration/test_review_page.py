"""The review page in a real browser, by the keyboard."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from browser import Tab
from fake_llm import FakeLLM
from judging_world import build, llm, run_llms, true_grade
from playwright.sync_api import expect

from serm import contracts
from serm.judging.review import Reviews, application


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Reviews, str]]:
    """A queue of two judges who differ by one grade, served."""
    world = build(tmp_path, monkeypatch)
    with FakeLLM(true_grade) as one, FakeLLM(lambda q, d: min(true_grade(q, d) + 1, 3)) as other:
        run_llms(
            world, llm(one.url, "one"), llm(other.url, "other"), agreement="unanimous", trust={"min_gold_pairs": 1}
        )
    reviews = Reviews(world / "out", world / "validated", world / "reviewed")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(reviews), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield reviews, f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=20)
    listener.close()


def test_a_person_grades_by_the_keyboard(desk: tuple[Reviews, str], tab: Tab) -> None:
    reviews, url = desk
    total = len(reviews.items)
    tab.open(url, 900)
    page, press = tab.page, tab.page.keyboard.press
    graded = page.locator("#progress")
    expect(page.locator("#pair")).to_be_visible()
    assert "other" not in page.locator("main").inner_text().split()
    expect(page.locator("#votes > *")).to_have_count(0)

    first = next(iter(reviews.items.values()))
    expect(page.locator("#query")).to_have_text(first.key[0])
    assert page.locator("#pieces li").count() == len(first.evidence) > 0
    press("n")
    page.keyboard.type("so 3")
    expect(page.locator("#note")).to_have_value("so 3")
    assert not reviews.graded
    press("Enter")
    press("2")
    expect(graded).to_contain_text(f"1 of {total} graded")
    assert reviews.graded[first.key] == (2, "so 3")
    for word in ("2 good", "one", "other", first.reason):
        expect(page.locator("#judged")).to_contain_text(word)
    if wanted := os.environ.get("SERM_SCREENSHOT"):
        page.screenshot(path=wanted)

    press("u")
    expect(graded).to_contain_text(f"0 of {total} graded")
    expect(page.locator("#judged")).to_be_hidden()
    press("s")
    expect(page.locator("#doc")).not_to_have_text(first.key[2])
    for done in range(total):
        press(str(done % 4))
        expect(graded).to_contain_text(f"{done + 1} of {total} graded")
    expect(page.locator("body")).to_contain_text("Nothing is left to grade")
    assert contracts.read(reviews.out, contracts.JUDGMENTS).num_rows == total
    assert page.evaluate("document.documentElement.scrollWidth") <= 900
    assert tab.complaints == []


def test_the_page_says_so_when_a_grade_is_not_saved_and_does_not_count_on(
    desk: tuple[Reviews, str], tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews, url = desk
    tab.open(url, 900)
    document, error = tab.page.locator("#doc"), tab.page.locator("#error")
    expect(document).to_be_visible()
    first = document.inner_text()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("serm.judging.review.reviews.replace_directory", full)
    tab.page.keyboard.press("2")
    expect(error).to_contain_text("Not saved: the answer could not be saved (No space left on device).")
    expect(document).to_have_text(first)
    expect(tab.page.locator("#progress")).to_contain_text(f"0 of {len(reviews.items)} graded")
    monkeypatch.undo()
    tab.page.keyboard.press("2")
    expect(tab.page.locator("#progress")).to_contain_text(f"1 of {len(reviews.items)} graded")
    expect(error).to_be_empty()
