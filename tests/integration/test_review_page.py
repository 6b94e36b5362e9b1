"""The review page in a real browser, by the keyboard."""

from __future__ import annotations

import base64
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from browser import Browser
from fake_llm import FakeLLM
from judging_world import build, llm, run_llms, true_grade

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


def press(browser: Browser, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, **text)


def until(told: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_person_grades_by_the_keyboard(browser: Browser, desk: tuple[Reviews, str]) -> None:
    reviews, url = desk
    total = len(reviews.items)
    browser.open(url, 900, "light")
    until(lambda: browser.tell("!document.querySelector('#pair').hidden"))
    text = "document.body.innerText"
    assert "other" not in browser.tell("document.querySelector('main').innerText").split()
    assert not browser.tell("Boolean(document.querySelector('#votes').children.length)")

    first = next(iter(reviews.items.values()))
    assert browser.tell("document.querySelector('#query').textContent") == first.key[0]
    assert browser.tell("document.querySelectorAll('#pieces li').length") == len(first.evidence) > 0
    press(browser, "n")
    for letter in "so 3":
        press(browser, letter)
    assert browser.tell("document.querySelector('#note').value") == "so 3"
    assert not reviews.graded
    press(browser, "Enter")
    press(browser, "2")
    until(lambda: f"1 of {total} graded" in browser.tell(text))
    assert reviews.graded[first.key] == (2, "so 3")
    told = browser.tell("document.querySelector('#judged').innerText")
    assert all(word in told for word in ("2 good", "one", "other", "the judges differ"))
    if wanted := os.environ.get("SERM_SCREENSHOT"):
        Path(wanted).write_bytes(base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"]))

    press(browser, "u")
    until(lambda: f"0 of {total} graded" in browser.tell(text))
    assert browser.tell("document.querySelector('#judged').hidden")
    shown = "document.querySelector('#doc').textContent"
    press(browser, "s")
    until(lambda: browser.tell(shown) != first.key[2])
    for done in range(total):
        press(browser, str(done % 4))
        until(lambda done=done: f"{done + 1} of {total} graded" in browser.tell(text))
    until(lambda: "Nothing is left to grade" in browser.tell(text))
    assert contracts.read(reviews.out, contracts.JUDGMENTS).num_rows == total
    assert browser.tell("document.documentElement.scrollWidth") <= 900
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [event for event in browser.events if event["method"] in complaints] == []


def test_the_page_says_so_when_a_grade_is_not_saved_and_does_not_count_on(
    browser: Browser, desk: tuple[Reviews, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews, url = desk
    browser.open(url, 900, "light")
    until(lambda: browser.tell("!document.querySelector('#pair').hidden"))
    first = browser.tell("document.querySelector('#doc').textContent")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("serm.judging.review.reviews.replace_directory", full)
    press(browser, "2")
    error = "document.querySelector('#error').innerText"
    until(lambda: "Not saved: the answer could not be saved (No space left on device)." in browser.tell(error))
    assert browser.tell("document.querySelector('#doc').textContent") == first
    assert f"0 of {len(reviews.items)} graded" in browser.tell("document.body.innerText")
    monkeypatch.undo()
    press(browser, "2")
    until(lambda: f"1 of {len(reviews.items)} graded" in browser.tell("document.body.innerText"))
    assert not browser.tell(error)
