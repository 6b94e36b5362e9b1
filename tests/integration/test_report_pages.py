"""The report in a real browser, and its linked pages out of a real DVC repository."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import report_history

from serm import report
from serm.versioning import Workspace

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-sync"
FLAGS += " --disable-component-update --remote-debugging-port=0 --remote-allow-origins=*"


class Browser:
    """One tab of a headless Chromium, driven through its DevTools protocol; ``events`` keeps what it tells."""

    def __init__(self, port: str) -> None:
        websocket = pytest.importorskip("websocket", reason="websocket-client drives the browser")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            (tab,) = (one for one in json.load(answer) if one["type"] == "page")
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=60)
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def open(self, page: Path, width: int, scheme: str) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def tell(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = next(line for line in process.stderr if "DevTools listening on" in line)
        yield Browser(told.split("ws://127.0.0.1:")[1].split("/")[0])
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    return report.build(report_history.write(root / "shop"), root / "out")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_its_screen_without_a_complaint(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, scheme)
    assert browser.tell("document.documentElement.scrollWidth") <= width
    light = browser.tell("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    asked = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [event for event in browser.events if event["method"] in complaints] == []


def test_choices_work_without_a_script_and_older_cycles_open_by_their_links(browser: Browser, page: Path) -> None:
    browser.open(page, 1280, "light")
    shown = "[...document.querySelectorAll('.view')].filter(v => v.offsetHeight).map(v => v.className).join()"
    assert browser.tell(shown) == "view m3 s1"
    browser.tell("document.querySelector('#m1').click(); document.querySelector('#s2').click()")
    assert browser.tell(shown) == "view m1 s2"
    opened = "document.querySelector('#cycle-0001').closest('details').open"
    assert not browser.tell(opened)
    browser.tell("document.querySelector('a[href=\"#cycle-0001\"]').click()")
    assert browser.tell(opened)


def test_linked_pages_come_out_of_dvc_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root, out = Path("shop"), Path("out")
    made = Workspace.create(root, tmp_path / "store")
    drift, docs = root / "cycle/drift/report.html", root / "cycle/validate/data_docs/index.html"
    for path in (drift, docs, root / "history/cycle-0001/ingest.json"):
        path.parent.mkdir(parents=True)
        path.write_text("{}" if path.suffix == ".json" else path.name)
    stages = (f"  {step}: {{cmd: 'true', outs: [cycle/{step}]}}\n" for step in ("drift", "validate"))
    (root / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    made.dvc("commit", "--quiet", "--force")
    made.git("add", ".")
    made.commit("cycle-0001")
    made.git("tag", "cycle-0001")
    shutil.rmtree(root / "cycle")

    html = report.build(root, out).read_text(encoding="utf-8")
    for address, text in (("drift/report.html", "report.html"), ("validate/data_docs/index.html", "index.html")):
        assert f'href="cycle-0001/{address}"' in html
        assert (out / "cycle-0001" / address).read_text() == text
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    assert report.build(root, out).read_text(encoding="utf-8") == html
