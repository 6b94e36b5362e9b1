"""Renders the report: reads the history, fetches the linked pages, and writes one HTML file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from serm.atomic import write_text
from serm.report import comparison, formats, linked, loop, proof
from serm.report.charts import curve
from serm.workspace import history

#: Trends are shown of so many cycles, the latest (a year of one every two weeks), and details of fewer, so that the
#: page stays below 3 MB; the table lists all.
RECENT, DETAILED = 26, 13


def build(workspace: Path, out: Path) -> Path:
    """Write the report over all cycles of ``workspace/history`` to ``out/index.html`` and return its path.

    The page holds its own style and charts and asks nothing of the network. Beside it, ``out/<tag>/drift`` and
    ``out/<tag>/validate`` hold the pages that it links to; those that are there are not fetched again. The same
    history gives the same bytes.

    Raises:
        UserError: the workspace has no history, or a summary in it is not JSON.
    """
    cycles = history.read(workspace)
    recent, detailed = cycles[-RECENT:], cycles[-DETAILED:]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("serm.report", "."),
        autoescape=True,  # queries, titles and reasons come from outside
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(formats.FILTERS)
    html = environment.get_template("report.html.jinja").render(
        name=workspace.resolve().name,
        style=Markup((files("serm.report") / "report.css").read_text(encoding="utf-8")),
        cycles=cycles,
        recent=recent,
        detailed=detailed,
        simulated=any(cycle.get("audit") is not None for cycle in cycles),
        pages={cycle.tag: linked.fetch(workspace, cycle.tag, out) for cycle in detailed},
        views=comparison.views(recent),
        comparison=comparison,
        proof=proof,
        curve=curve,
        loop_of=loop,
        interval_name=_interval_name(recent),
    )
    write_text(out / "index.html", html)
    return out / "index.html"


def _interval_name(cycles: list[history.Cycle]) -> str:
    """Name the intervals, with their confidence where all cycles' settings agree on it."""
    alphas = {cycle.settings.evaluation.alpha if cycle.settings else None for cycle in cycles}
    alpha = alphas.pop() if len(alphas) == 1 else None
    return "bootstrap intervals" if alpha is None else f"{1 - alpha:.0%} bootstrap intervals".replace("%", " %")
