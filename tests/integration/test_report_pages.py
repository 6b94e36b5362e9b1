"""The report in a real browser, and its linked pages out of a real DVC repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest
import report_history
from browser import Tab
from playwright.sync_api import expect

from serm import report
from serm.workspace.store import Workspace

SEALED = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    return report.build(report_history.write(root / "shop"), root / "out")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_its_screen_without_a_complaint(
    tab: Tab, written: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    tab.open(written.as_uri(), width, scheme)
    tell = tab.page.evaluate
    assert tell("document.documentElement.scrollWidth") <= width
    reasons = (
        "[...document.querySelectorAll('.cycle[open] .rules td:last-child')].map(td => td.getBoundingClientRect())"
    )
    assert tell(f"{reasons}.every(box => box.left >= 0 && box.right <= {width} && box.width > 300)")
    assert tell(f"{reasons}.length") == 8  # one a rule of the gate
    light = tell("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    assert {url for url in tab.asked if not url.startswith("data:")} == {written.as_uri()}
    assert tab.complaints == []


def test_what_stands_in_the_loop_covers_none_of_its_stations(tab: Tab, written: Path) -> None:
    tab.open(written.as_uri())
    boxes = "[...document.querySelectorAll('{}')].map(e => e.getBoundingClientRect())"
    stations, inside = boxes.format(".station"), boxes.format(".hub *")
    apart = "a.bottom <= b.top || b.bottom <= a.top || a.right <= b.left || b.right <= a.left"
    assert tab.page.evaluate(f"{inside}.length") >= 4
    assert tab.page.evaluate(f"{inside}.every(a => {stations}.every(b => {apart}))")


def test_choices_work_without_a_script_and_older_cycles_open_by_their_links(tab: Tab, written: Path) -> None:
    tab.open(written.as_uri())
    shown = tab.page.locator(".view:visible")
    expect(shown).to_have_class("view m3 s1")
    for choice in ("m1", "s2"):
        tab.page.locator(f"#{choice}").check()
    expect(shown).to_have_class("view m1 s2")
    older = tab.page.locator("details:has(> #cycle-0001)")
    expect(older).not_to_have_attribute("open", "")
    tab.page.locator("a[href='#cycle-0001']").first.click()
    expect(older).to_have_attribute("open", "")


def test_linked_pages_come_out_of_dvc_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root, out = Path("shop"), Path("out")
    made = Workspace.create(root, tmp_path / "store")
    drift, docs = root / "cycle/drift/report.html", root / "cycle/validate/data_docs/index.html"
    for path in (drift, docs, root / "history/cycle-0001/ingest.json"):
        path.parent.mkdir(parents=True)
        path.write_text("{}" if path.suffix == ".json" else f"{SEALED}{path.name}")
    stages = (f"  {step}: {{cmd: 'true', outs: [cycle/{step}]}}\n" for step in ("drift", "validate"))
    (root / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    made.dvc("commit", "--force")
    made.commit("cycle-0001", ["."])
    made.git("tag", "cycle-0001")
    shutil.rmtree(root / "cycle")

    html = report.build(root, out).read_text(encoding="utf-8")
    for address, text in (("drift/report.html", "report.html"), ("validate/data_docs/index.html", "index.html")):
        assert f'href="cycle-0001/{address}"' in html
        assert (out / "cycle-0001" / address).read_text() == SEALED + text
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    assert report.build(root, out).read_text(encoding="utf-8") == html


def test_a_page_that_an_earlier_serm_left_unescaped_is_not_linked(tmp_path: Path) -> None:
    old = tmp_path / "out/cycle-0001/drift/report.html"
    old.parent.mkdir(parents=True)
    old.write_text("<!DOCTYPE html><script>var data = '</script><script>alert(1)</script>'</script>")
    html = report.build(report_history.write(tmp_path / "shop", 1), tmp_path / "out").read_text(encoding="utf-8")
    assert "cycle-0001/drift/report.html" not in html
