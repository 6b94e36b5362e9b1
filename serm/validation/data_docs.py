"""The pages of Great Expectations, made to open without network and to come out the same in every run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaPageView

from serm.settings import CycleSettings

_REMOTE = re.compile(r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>", re.DOTALL)
_RANDOM_ID = re.compile(r"-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OTHER_PAGE = re.compile(r"(?:\.\./)+(?:index|expectations/\w+)\.html")


def write_page(path: Path, result: ExpectationSuiteValidationResult) -> None:
    """Write the page of one suite's ``result``.

    GX's own site loads its styles, scripts and logo from the network, fills its index by script and stamps
    times and random ids; here the same page has its style inside and none of these.
    """
    result.meta.pop("batch_markers")  # type: ignore[misc]  # holds the time of the run
    content = ValidationResultsPageRenderer().render(result)
    page: str = DefaultJinjaPageView().render(content)  # type: ignore[no-untyped-call]
    page = _RANDOM_ID.sub("", _REMOTE.sub("", page))
    page = _OTHER_PAGE.sub("index.html", page).replace("</head>", f"<style>{_style()}</style></head>", 1)
    lines = (line.rstrip() for line in page.splitlines())
    path.write_text("\n".join(line for line in lines if line) + "\n", encoding="utf-8")


def write_index(
    path: Path, cycle: CycleSettings, verdicts: dict[str, bool], unchecked: Sequence[tuple[str, str, str]]
) -> None:
    """Write the page that links to the page of each dataset, with the verdict of its suite.

    ``unchecked`` are (dataset, rule, why) of what could not be checked.
    """
    rows = "\n".join(
        f'<tr><td><a href="{escape(dataset)}.html">{escape(dataset)}</a></td>'
        f"<td>{'passed' if passed else 'failed'}</td></tr>"
        for dataset, passed in verdicts.items()
    )
    items = "\n".join(f"<li>{escape(dataset)}: {escape(rule)} ({escape(why)})</li>" for dataset, rule, why in unchecked)
    missed = f"<h2>Not checked</h2>\n<ul>\n{items}\n</ul>" if unchecked else ""
    path.write_text(
        f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Data Docs, {cycle.name}</title><style>{_style()}</style></head>
<body><div class="container-fluid"><h1>Data Docs, {cycle.name}</h1>
<p>Impressions from {cycle.start:%Y-%m-%d %H:%M} to {cycle.end:%Y-%m-%d %H:%M}, catalogue and judgments.</p>
<table class="table"><thead><tr><th>Suite</th><th>All expectations</th></tr></thead>
<tbody>
{rows}
</tbody></table>
{missed}</div></body>
</html>
""",
        encoding="utf-8",
    )


def _style() -> str:
    return (files("serm.validation") / "data_docs.css").read_text(encoding="utf-8")
