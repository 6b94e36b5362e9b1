"""Every text of every table poisoned, every page and file that SERM writes opened in a real browser: nothing runs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import judging_world
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import report_history
import uvicorn
import yaml
from browser import Tab
from hostile import PAYLOADS, complaints, injected, poison, poisoned, poisoned_summary, without_policy
from markdown_it import MarkdownIt
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families

from serm import contracts, report, validation
from serm import engine as engines
from serm.contracts import IMPRESSIONS
from serm.drift import columns
from serm.escaping import unmarked, visible
from serm.judging.review import Reviews, application
from serm.monitoring import exporter, snapshots
from serm.settings import Settings
from serm.workspace.publish import model_card

PAGES = (
    "report/index.html",
    "drift/report.html",
    "validate/data_docs/index.html",
    "validate/data_docs/impressions.html",
    "validate/data_docs/judgments.html",
    "validate/data_docs/documents.html",
)
#: Open the rows of Evidently's table, then their tabs, one after the other: there stand the queries. Returns all text.
UNFOLD = """(async () => {
  const pause = () => new Promise(done => setTimeout(done, 300));
  const text = () => document.body.innerText + document.body.textContent;
  document.querySelectorAll('tbody tr button').forEach(button => button.click());
  await pause();
  const seen = [text()];
  for (const tab of document.querySelectorAll('tbody [role=tab]')) { tab.click(); await pause(); seen.push(text()); }
  return seen.join();
})()"""


@pytest.fixture(scope="module")
def written(
    make_impressions: Callable[..., pa.Table],
    make_documents: Callable[..., pa.Table],
    make_judgments: Callable[..., pa.Table],
    make_settings: Callable[..., Settings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What the steps write of poisoned tables, one of whose rows breaks a rule, and the report over them."""
    root = tmp_path_factory.mktemp("hostile")
    logs = [poisoned(make_impressions(seed=seed)) for seed in range(2)]
    news = pc.replace_substring(logs[1]["query"], "word", "term")
    logs[1] = logs[1].set_column(logs[1].schema.get_field_index("query"), IMPRESSIONS.field("query"), news)
    bad = logs[1].slice(0, 1).to_pylist()[0] | {"locale": poison("xx"), "position": 0}
    log = pa.concat_tables([logs[1].slice(1), pa.Table.from_pylist([bad], IMPRESSIONS)])
    seed = [row | {"source": "seed"} for row in poisoned(make_judgments().slice(0, 1)).to_pylist()]
    contracts.write(log, root / "window/impressions", IMPRESSIONS)
    contracts.write(poisoned(make_documents()), root / "documents", contracts.DOCUMENTS)
    contracts.write(pa.Table.from_pylist(seed, contracts.JUDGMENTS), root / "judgments", contracts.JUDGMENTS)
    chosen = make_settings(validation={"max_unjudged_share": 0.1}, drift={"sample_searches": 300})
    window, documents, judgments, profiles = (root / name for name in ("window", "documents", "judgments", "profiles"))
    validation.validate(window, documents, judgments, profiles, root / "validate", chosen)
    with engines.connect(chosen.engine) as engine:
        contracts.write(logs[0], root / "reference", IMPRESSIONS)
        before, now = (contracts.scan(engine, root / name, IMPRESSIONS) for name in ("reference", "window/impressions"))
        (root / "drift").mkdir()
        columns.compare(before, now, chosen.drift, root / "drift", chosen.cycle)
    shop = report_history.write(root / "shop <img src=x onerror=pwned=1>", 2)
    for path in (shop / "history").glob("*/*.json"):
        path.write_text(json.dumps(poisoned_summary(json.loads(path.read_text()), path.stem)))
    report.build(shop, root / "report")
    return root


def opened(tab: Tab, page: Path) -> str:
    """Open ``page``, unfold all of it, and return its text."""
    tab.open(page.as_uri())
    return unfolded(tab, drawn=page.name.endswith("report.html"))


def unfolded(tab: Tab, drawn: bool = True) -> str:
    """Unfold all of the page that is open and return its text; ``drawn`` by Evidently's script, wait for that."""
    if drawn:
        tab.page.locator("tbody tr button").first.wait_for()
    text: str = tab.page.evaluate(UNFOLD)
    return text


@pytest.mark.parametrize("page", PAGES)
def test_no_text_runs_in_a_page_and_its_policy_is_not_even_needed(tab: Tab, written: Path, page: str) -> None:
    for file in (written / page, without_policy(written / page)):
        opened(tab, file)
        assert complaints(tab) == []


@pytest.mark.parametrize("page", PAGES)
def test_the_policy_alone_stops_what_is_let_in(tab: Tab, written: Path, page: str) -> None:
    opened(tab, injected(written / page))
    assert tab.page.locator("#injected").count() == 1
    assert tab.page.evaluate("typeof pwned") == "undefined"
    assert not any("pwned" in url for url in tab.answered)
    assert any("Content Security Policy" in line for line in tab.complaints)  # so a refusal is seen elsewhere too


def test_what_was_typed_is_shown_as_it_was_typed(tab: Tab, written: Path) -> None:
    report_text = opened(tab, written / "report/index.html")
    assert all(visible(one) in report_text for one in PAYLOADS)
    findings = opened(tab, written / "validate/data_docs/judgments.html")
    assert visible(poison("fr")) in findings  # a locale without a judgment
    queries = opened(tab, written / "drift/report.html")
    assert unmarked("</script><script>pwned=1</script>") in queries


def test_a_model_card_is_data_and_text_whatever_a_log_calls_its_locales(
    tab: Tab, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    summaries = {name: poisoned_summary(one, name) for name, one in report_history.summaries(1).items()}
    locales = {"no": 9, "de-AT": 5, "pt_BR": 3, "en]\nlicense: pwned": 2, "": 1, **{one: 1 for one in PAYLOADS}}
    summaries["ingest"]["locales"] = locales
    summaries["evaluate"] |= {"sets": report_history.summaries(1)["evaluate"]["sets"]}
    card = model_card(summaries, make_settings())
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "serm",
        "language": ["de", "no", "pt"],
        "tags": ["relevance", "cross-encoder", "search", "cycle-0001"],
    }
    assert len(summaries["evaluate"]["gate"]["rules"]) >= 7
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = tmp_path / "card.html"
    page.write_text(f"<meta charset=utf-8>{renderer.render(text)}", encoding="utf-8")
    assert "://" not in text  # GitHub makes links of them
    told = opened(tab, page)
    assert complaints(tab) == []
    assert tab.page.locator("a, img, hr, code a, b").count() == 0
    for rule in summaries["evaluate"]["gate"]["rules"]:
        assert " ".join(visible(rule["reason"]).split()) in told


def test_prometheus_reads_a_poisoned_history_as_it_reads_a_clean_one(written: Path, tmp_path: Path) -> None:
    clean = report_history.write(tmp_path / "clean", 2)
    found = []
    for shop in (clean, next(written.glob("shop*"))):
        exporter.write(shop, tmp_path / "serm.prom")
        families = text_string_to_metric_families((tmp_path / "serm.prom").read_text(encoding="utf-8"))
        found.append([(one.name, one.value) for family in families for one in family.samples])
    names = [sorted(name for name, _ in one if "timestamp" not in name) for one in found]
    assert names[0] == names[1]


def test_no_text_steers_the_terminal(written: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        'cycle:\n  number: 1\n  start: "2018-01-01T00:00:00Z"\n  end: "2019-01-01T00:00:00Z"\n'
        "validation: {max_unjudged_share: 0.1}\n"
    )
    bad = [f"en{PAYLOADS[-1]}", "de"]
    log = contracts.read(written / "window/impressions", IMPRESSIONS).to_pylist()
    rows = [row | {"locale": bad[number % 2]} for number, row in enumerate(log)]
    contracts.write(pa.Table.from_pylist(rows, IMPRESSIONS), tmp_path / "window/impressions", IMPRESSIONS)
    documents = contracts.read(written / "documents", contracts.DOCUMENTS).to_pylist()
    catalogue = [row | {"locale": bad[number % 2]} for number, row in enumerate(documents)]
    contracts.write(pa.Table.from_pylist(catalogue, contracts.DOCUMENTS), tmp_path / "documents", contracts.DOCUMENTS)
    contracts.write(contracts.JUDGMENTS.empty_table(), tmp_path / "judgments", contracts.JUDGMENTS)
    main = [sys.executable, "-c", "from serm.cli import main; main()"]
    verbs = (
        ["validate", "--window", "window", "--judgments", "judgments", "--out", "out"],
        ["report", "--workspace", "no\x1b]0;pwned\x07\u202eshop"],
    )
    told = [subprocess.run([*main, *verb], cwd=tmp_path, capture_output=True, text=True, check=False) for verb in verbs]
    assert [one.returncode for one in told] == [0, 2]
    assert "\\x1b]0;pwned\\x07" in told[0].stderr
    assert "no\\x1b]0;pwned\\x07\\u202eshop" in told[1].stderr
    assert not [one for one in told if set(one.stdout + one.stderr) & set("\x07\x1b\u202e\u2028\u2066")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Reviews]]:
    """A review page whose queue is poisoned: queries, documents, evidence, judges and rationales."""
    world = judging_world.build(tmp_path, monkeypatch)
    judging_world.run(world, agreement="unanimous")
    for path, schema in (
        ("out/review", contracts.REVIEW),
        ("out/votes", contracts.VOTES),
        ("validated/documents", contracts.DOCUMENTS),
    ):
        contracts.write(poisoned(contracts.read(world / path, schema)), world / path, schema)
    listener = socket.create_server(("127.0.0.1", 0))
    desk = Reviews(world / "out", world / "validated", world / "reviewed")
    server = uvicorn.Server(uvicorn.Config(application(desk), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", desk
    server.should_exit = True
    thread.join(timeout=20)
    listener.close()


def test_no_text_of_a_queue_runs_on_the_review_page(desk: tuple[str, Reviews], tab: Tab) -> None:
    url, queue = desk
    tab.open(url, 900)
    progress, whole = tab.page.locator("#progress"), tab.page.locator("body")
    seen = ""
    for number in range(1, len(queue.items) + 1):
        expect(progress).to_contain_text(re.compile(f"^{number - 1} of"))
        seen += str(whole.text_content())
        tab.page.locator('[data-grade="2"]').click()
        expect(progress).to_contain_text(re.compile(f"^{number} of"))
        seen += str(whole.text_content())
    assert complaints(tab) == []
    for item in queue.items.values():
        rationales = [vote["rationale"] for vote in item.votes]
        assert all(text in seen for text in (*item.key, item.title, item.reason, *rationales))
    assert len([one for one in PAYLOADS if one in seen]) > len(PAYLOADS) / 2
    with urllib.request.urlopen(url) as answer:
        assert "unsafe" not in answer.headers["content-security-policy"]


def test_no_text_runs_in_evidentlys_own_pages_though_an_earlier_serm_left_it_raw(
    tab: Tab, written: Path, tmp_path: Path
) -> None:
    raw = (written / "drift/snapshot.json").read_text().replace("\\u2039", "<").replace("\\u203a", ">")
    assert "</script>" in raw
    (tmp_path / "snapshot.json").write_text(raw)
    snapshots.add(tmp_path, "cycle-0001", tmp_path / "snapshot.json")
    (run,) = snapshots.directory_of(tmp_path).glob("*/snapshots/*.json")
    project = run.parts[-3]
    workspace = ["--workspace", str(snapshots.directory_of(tmp_path)), "--host", "127.0.0.1", "--port", "0"]
    command = [sys.executable, "-c", "from evidently.cli import app; app()", "ui", *workspace]
    log = tmp_path / "server.log"
    with log.open("w") as told:
        quiet = {**os.environ, "DO_NOT_TRACK": "1"}
        server = subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=told)
    try:
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)  # not listening yet; pytest's own timeout ends a wait in vain
        url = found[1]
        with urllib.request.urlopen(f"{url}/api/projects/{project}/{run.stem}/download") as answer:
            page = answer.read().decode()
        tab.open(f"{url}/projects/{project}/reports/{run.stem}")
        shown = unfolded(tab)
        assert unmarked("</script><script>pwned=1</script>") in shown
        assert complaints(tab) == []
    finally:
        server.terminate()
        server.wait()
    (tmp_path / "downloaded-report.html").write_text(page, encoding="utf-8")
    opened(tab, tmp_path / "downloaded-report.html")
    assert complaints(tab) == []
