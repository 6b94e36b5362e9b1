"""The documentation as a site: it builds, its links hold, it asks nothing of other hosts, its references are whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import typer

from serm.cli import app
from serm.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with ``--strict``: a link or an anchor that leads nowhere fails."""
    out = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return out


def test_a_page_of_the_site_asks_nothing_of_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    loads = re.compile(r'<(?:script|img|iframe|source|video)\b[^>]*\bsrc="([^"]*)"|<link\b[^>]*\bhref="([^"]*)"')
    found = [(page.name, "".join(hit)) for page in pages for hit in loads.findall(page.read_text(encoding="utf-8"))]
    assert [hit for hit in found if hit[1].startswith(("http:", "https:", "//"))] == []
    assert len(pages) > 30
    assert found


def test_every_field_of_params_yaml_has_a_meaning_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "params.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in page.split("<tr>")[1:]]
    told = {re.sub("<[^>]*>", "", row[0]): row for row in rows if row}
    fields = {
        field for schema in Settings.model_json_schema()["$defs"].values() for field in schema.get("properties", ())
    }
    assert fields - set(told) == set()
    assert [row[0] for row in rows if row and not row[-1].strip()] == []
    assert told["canary_percent"][1:5] == ["whole number", "percent", "≥ 0, ≤ 100", "<code>10</code>"]


def test_every_verb_and_option_is_in_the_reference(site: Path) -> None:
    page = unescape((site / "reference" / "commands.html").read_text(encoding="utf-8"))
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, verb in verbs.items():
        assert f"serm {name}" in page
        assert [
            option for one in verb.params for option in one.opts if option.startswith("-") and option not in page
        ] == []


def test_the_house_is_drawn_with_its_rooms_and_never_upwards(site: Path) -> None:
    page = (site / "architecture.html").read_text(encoding="utf-8")
    drawing = page[page.index('<svg class="house"') :]
    drawing = drawing[: drawing.index("</svg>")]
    rooms = set(re.findall(r">([a-z_]+)</text>", drawing))
    assert {"cli", "workspace", "mining", "contracts"} <= rooms
    arrows = re.findall(r'class="arrow" d="M\d+ (\d+)C.*? \d+ (\d+)" marker', drawing)
    assert len(arrows) > 20
    assert all(int(start) < int(end) for start, end in arrows)


def test_every_result_file_is_in_the_table_of_benchmarks_with_its_command_and_date(site: Path) -> None:
    page = unescape((site / "benchmarks.html").read_text(encoding="utf-8"))
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        name = path.stem.removesuffix("_second_log").removesuffix("_memory").removesuffix("_long")
        command = f"make bench NAME={name}"
        if name == "evolution_esci":  # the data are not here
            command = json.loads(path.read_text(encoding="utf-8"))["command"]
        assert re.search(rf"{re.escape(command)}</code>, \d{{4}}-\d\d-\d\d", page), name
    assert "<td>hand-written DuckDB SQL: 584.92 s</td>\n<td>6.26</td>" in page
