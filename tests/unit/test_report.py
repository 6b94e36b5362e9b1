"""The report: all of a history is on the page, nothing else is, and the page stands on its own."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import report_history

from serm import report
from serm.errors import UserError
from serm.report import controls, formats, linked
from serm.workspace import history

MISSING = "not available"
VOID = {"meta", "link", "input", "br"}
#: SVG elements that the templates close at once, with "/>".
CLOSED = {"path", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """The page as a list of (tag, attributes) and its text by tag; fails on tags that do not balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(text.split()) for _, text in self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED, tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style",):
            self.texts.append((self.open[-1], data))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_history.write(tmp_path_factory.mktemp("report") / "shop")


@pytest.fixture(scope="module")
def html(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a complete history, with its linked pages in place."""
    out = tmp_path_factory.mktemp("out")
    for tag in ("cycle-0001", "cycle-0002", "cycle-0003"):
        for step, (name, opens) in linked.PAGES.items():
            path = out / tag / step / f"{name}{opens}"
            path.parent.mkdir(parents=True)
            path.write_text(
                "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'\">Evidently's page, or GX's"
            )
    return report.build(workspace, out).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def changed(workspace: Path, tmp_path: Path) -> Callable[..., str]:
    """Build the page of a copy of the workspace without the files named, and return it."""

    def build(*removed: str) -> str:
        copy = tmp_path / "copy"
        shutil.copytree(workspace, copy)
        for name in removed:
            for path in list((copy / "history").glob(name)):
                path.unlink()
        return report.build(copy, tmp_path / "out").read_text(encoding="utf-8")

    return build


def test_a_complete_history_is_shown_whole(html: str, page: Page) -> None:
    assert MISSING not in page.text
    for shown in (
        "270,580",  # ingest
        "position is below 1",  # a broken rule
        "370.0 impressions a day",  # the window beside earlier ones
        "no earlier window",  # and the first, which has none
        "12.3% of the searches are for queries that no earlier window has",  # a drift reason
        "疫苗",  # a new query
        "疫苗, 口罩",  # a topic that grew
        "4.2 %",  # its share
        "no model version served in this and an earlier window",  # a drift test that was not made
        "a share may be off by ±3.0 %",  # Evidently's samples
        "41,230",  # candidates
        "model disagreement",
        "+16.8 points",  # the panel above its base rate
        "dawid-skene (in use)",
        "without outside knowledge",
        "1.8 times",  # the lift of mining
        "significantly better, by more than min_gain 0.",  # a gate reason
        "loss on a slice",  # a rule
        "MAP",
        "calibration error (less is better)",
        "too few to test",
        "head queries",
        "microbe and a much longer name than others",  # a document of a biggest win
        "88.5 %",  # the canary's agreement
        "peak of the step's process",
        "simulate, outside the loop",
        "2021-01-01 to 2023-01-01",
    ):
        assert shown in page.text, shown


def test_each_cycle_links_to_its_two_pages(page: Page) -> None:
    links = {attributes["href"] for attributes in page.all("a")}
    for tag in ("cycle-0001", "cycle-0002", "cycle-0003"):
        assert {f"{tag}/drift/report.html", f"{tag}/validate/data_docs/index.html"} <= links


def test_text_from_the_data_stays_text(html: str, page: Page) -> None:
    assert page.all("script") == []
    assert "&lt;script&gt;alert(&#39;query&#39;)&lt;/script&gt;" in html
    assert "<script>alert('query')</script>" in page.text


def test_the_page_asks_nothing_of_the_network(html: str, page: Page) -> None:
    addresses = [
        value for tag, attributes in page.tags for name, value in attributes.items() if name in ("href", "src")
    ]
    assert addresses
    for address in addresses:
        assert address == "data:," or address.startswith(("#", "cycle-")), address
    assert "url(" not in html
    assert "@import" not in html
    assert "//" not in html.replace("</", "")


def test_headings_tables_and_charts_can_be_told_apart(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) > 20
    assert all("scope" in attributes for attributes in page.all("th"))
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert len(page.all("svg")) > 50


def test_links_within_the_page_lead_somewhere_and_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    within = {attributes["href"][1:] for attributes in page.all("a") if attributes["href"].startswith("#")}
    assert within <= set(ids)
    assert "cycle-0003-mining" in within  # the picture of the loop leads to the parts


def test_a_verdict_is_a_word_and_a_sign_not_a_colour_only(page: Page) -> None:
    assert "✓ passed" in page.text
    assert "? inconclusive" in page.text
    assert "▲ better" in page.text


def test_what_a_cycle_lacks_is_not_available(changed: Callable[..., str]) -> None:
    page = Page(changed("cycle-0003/audit.json", "cycle-0003/deploy.json", "cycle-0002/costs.json"))
    assert "not available : this cycle was not deployed." in page.text
    assert "Simulated users and log." in page.text  # the other cycles have an audit
    text = page.text
    assert MISSING in text[text.index("Labels against the hidden truth") : text.index("Training")]


def test_forgetting_is_said_and_told_by_locale(changed: Callable[..., str]) -> None:
    page = Page(changed())
    assert "−0.014 (−0.021 to −0.004): ▼ it forgets" in page.text
    assert "What is remembered, by locale" in page.text
    assert "new judgments have 8.3 %" in page.text


def test_a_cycle_that_stopped_at_drift_is_shown(changed: Callable[..., str]) -> None:
    later = ("mine", "annotate", "train", "evaluate", "deploy", "audit")
    page = Page(changed(*(f"cycle-0003/{name}.json" for name in later)))
    assert "no challenger reached the gate." in page.text
    assert "this cycle was not evaluated." in page.text


def test_a_window_in_which_nothing_drifted_is_told_and_not_full_of_gaps(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    quiet = copy / "history" / "cycle-0003"
    for name in ("mine", "annotate", "train", "evaluate", "deploy", "audit"):
        (quiet / f"{name}.json").unlink()
    drift, costs = (json.loads((quiet / f"{name}.json").read_text()) for name in ("drift", "costs"))
    (quiet / "drift.json").write_text(json.dumps(drift | {"decision": "quiet", "reasons": []}))
    kept = {step: costs[step] for step in ("ingest", "validate", "drift")} | {"record": costs["publish"]}
    (quiet / "costs.json").write_text(json.dumps(kept))
    page = Page(report.build(copy, tmp_path / "out").read_text(encoding="utf-8"))
    assert "nothing drifted, so no challenger was trained; the champion stays." in page.text
    whole = page.text[page.text.index("cycle-0003 – quiet") :]
    details = whole[: whole.index("cycle-0002")]
    assert details.count(MISSING) == 2  # this workspace has no DVC to bring back the two linked pages
    assert "Evidently report: not available" in details
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {attributes["href"][1:] for attributes in page.all("a") if attributes["href"].startswith("#")} <= ids


def test_nothing_but_ingest_is_still_a_page(changed: Callable[..., str]) -> None:
    names = ("validate", "drift", "mine", "annotate", "train", "evaluate", "deploy", "costs", "audit")
    page = Page(changed(*(f"*/{name}.json" for name in names)))
    assert "no cycle has an evaluation." in page.text
    assert page.text.count(MISSING) > 20


def test_only_a_simulated_world_is_held_against_its_hidden_truth(
    changed: Callable[..., str], page: Page, workspace: Path
) -> None:
    assert "Simulated users and log." in page.text
    for path in (workspace / "history").glob("*/audit.json"):
        truth = formats.share(json.loads(path.read_text())["labels"]["accuracy"])
        assert " ".join(f"{truth} of the kept labels are true.".split()) in " ".join(page.text.split())
    real = Page(changed("*/audit.json"))
    assert not [word for word in ("imulated", "hidden truth", "of the kept labels are true") if word in real.text]


def test_no_history_is_a_users_error(tmp_path: Path) -> None:
    shop = tmp_path / "a shop's"  # the command that is told can be copied
    shop.mkdir()
    with pytest.raises(UserError, match="no workspace; go into one, or name it with --workspace"):
        report.build(shop, tmp_path / "out")
    (shop / "params.yaml").touch()
    with pytest.raises(UserError, match="no cycle to report on; run `serm evolve --workspace ") as told:
        report.build(shop, tmp_path / "out")
    assert shlex.split(str(told.value).split("`")[1])[-1] == str(shop)


def test_a_broken_summary_is_a_users_error(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    summary = copy / "history/cycle-0002/mine.json"
    summary.write_text("{")
    with pytest.raises(UserError, match=rf"^{summary}: cannot be read .* `git checkout -- {summary}`"):
        report.build(copy, tmp_path / "out")


def test_the_same_history_gives_the_same_bytes(changed: Callable[..., str], workspace: Path, tmp_path: Path) -> None:
    first = changed()
    assert report.build(tmp_path / "copy", tmp_path / "again").read_text(encoding="utf-8") == first


def test_many_cycles_stay_below_three_megabytes(tmp_path: Path) -> None:
    path = report.build(report_history.write(tmp_path / "old", 28), tmp_path / "out")
    assert path.stat().st_size < 3_000_000
    page = Page(path.read_text(encoding="utf-8"))
    linked_to = {attributes["href"] for attributes in page.all("a")}
    assert {"#cycle-0028", "#cycle-0016"} <= linked_to
    assert "#cycle-0015" not in linked_to
    assert "cycle-0002" in page.text


def test_a_control_that_was_not_trained_is_said_to_be_missing(workspace: Path, tmp_path: Path) -> None:
    cycle = history.read_cycles(workspace)[0]
    found = controls.controls(cycle)
    assert found is not None
    assert (found.absent, len(found.rows)) == (["replay", "self-training"], 2)
    page = Page(report.build(workspace, tmp_path / "out").read_text(encoding="utf-8"))
    assert "replay: not trained in this cycle" in page.text
    assert "too few" in page.text  # of 512 queries where the margin of frozen_loss needs 950


def test_a_cycle_that_held_no_seed_query_out_measures_no_forgetting(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    path = copy / "history" / "cycle-0003" / "train.json"
    none = {"pairs": 0, "queries": 0, "champion": {}, "challenger": {}, "by_locale": {}}  # as training.forgetting says
    path.write_text(json.dumps(json.loads(path.read_text()) | {"held_out_seed": none}))
    page = Page(report.build(copy, tmp_path / "out").read_text(encoding="utf-8"))
    assert "both models on 0 seed judgments" in page.text


def test_a_server_that_crashed_is_told_apart_from_a_challenger_that_failed(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    path = copy / "history" / "cycle-0003" / "evaluate.json"
    told = json.loads(path.read_text())
    told["gate"]["result"] = told["gate"]["rules"][7]["result"] = "error"
    path.write_text(json.dumps(told))
    page = Page(report.build(copy, tmp_path / "out").read_text(encoding="utf-8"))
    assert "! error" in page.text
    assert "crashed or never answered, which says nothing of the challenger" in page.text


def test_an_evaluation_of_an_older_serm_is_not_available_but_no_crash(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    path = copy / "history" / "cycle-0003" / "evaluate.json"
    old = json.loads(path.read_text())
    old["sets"] = {name: documents["pool"] for name, documents in old["sets"].items()}
    old["gate"] = {"result": "passed", "reasons": ["It was better."]}
    del old["calibration"], old["examples"]
    path.write_text(json.dumps(old))
    page = Page(report.build(copy, tmp_path / "out").read_text(encoding="utf-8"))
    assert "Rules: not available" in page.text
