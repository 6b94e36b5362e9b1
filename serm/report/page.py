"""Renders the report: reads the history, fetches the linked pages, and writes one HTML file."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from serm.atomic import write_text
from serm.escaping import asset, policy, templates
from serm.report import answers, comparison, controls, formats, linked, loop, proof, ramp
from serm.report.charts import curve
from serm.workspace import history

#: Trends are shown of so many cycles, the latest (a year of one every two weeks), and details of fewer, so that the
#: page stays below 3 MB; the table lists all.
RECENT, DETAILED = 26, 13
_ROOM = "serm.report"


def build(workspace: Path, out: Path) -> Path:
    """Write the report over all cycles of ``workspace/history`` to ``out/index.html`` and return its path.

    Raises:
        UserError: as ``render`` does.
    """
    write_text(out / "index.html", render(workspace, out))
    return out / "index.html"


def render(workspace: Path, out: Path, served: bool = False) -> str:
    """Return the report over all cycles of ``workspace/history``, and put the pages that it links to below ``out``.

    The page holds its own style and charts and asks nothing of the network. Beside it, ``out/<tag>/drift`` and
    ``out/<tag>/validate`` hold the pages that it links to; those that are there are not fetched again. The same
    history gives the same bytes.

    Args:
        workspace: the workspace's root.
        out: where the linked pages go.
        served: whether ``serm report --serve`` shows it, which also tells what runs now.

    Raises:
        UserError: the workspace has no history, or a summary in it is not JSON.
    """
    cycles = history.read_cycles(workspace)
    recent, detailed = cycles[-RECENT:], cycles[-DETAILED:]
    environment = templates(_ROOM)
    environment.filters.update(formats.FILTERS)
    views = comparison.views(recent)
    style = "\n".join([asset(_ROOM, "report.css"), *_choices(views)])
    return environment.get_template("report.html.jinja").render(
        name=workspace.resolve().name,
        policy=policy(styles=[style]),
        style=Markup(style),
        cycles=cycles,
        recent=recent,
        detailed=detailed,
        simulated=any(cycle.get("audit") is not None for cycle in cycles),
        pages={cycle.tag: linked.fetch(workspace, cycle.tag, out) for cycle in detailed},
        views=views,
        rollouts=ramp.pictures(workspace, DETAILED),
        ramp=ramp.SIZES,
        comparison=comparison,
        proof=proof,
        control=controls,
        curve=curve,
        loop_of=loop,
        answers=answers.answers(cycles[-1]),
        served=served,
        interval_name=_interval_name(recent),
    )


def _choices(views: list[comparison.View]) -> list[str]:
    """Return the style by which the page shows the view of the chosen measure and test set without a script."""
    measures, tests = ({getattr(view, name) for view in views} for name in ("measure", "test"))
    names = [f"m{number + 1}" for number in range(len(measures))] + [f"s{number + 1}" for number in range(len(tests))]
    return [f".trends:has(#{name}:checked) .view:not(.{name}) {{ display: none; }}" for name in names]


def _interval_name(cycles: list[history.Cycle]) -> str:
    """Name the intervals, with their confidence where all cycles' settings agree on it."""
    alphas = {cycle.settings.evaluation.alpha if cycle.settings else None for cycle in cycles}
    alpha = alphas.pop() if len(alphas) == 1 else None
    return "bootstrap intervals" if alpha is None else f"{1 - alpha:.0%} bootstrap intervals".replace("%", " %")
