"""Data Docs: a page for each suite's result as Great Expectations gives it, and one that links to them.

GX's own pages put findings in as HTML (it takes a description for Markdown), load styles, scripts and a logo from
the network and stamp times and random ids. These escape what they show, and come out the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import great_expectations as gx
from great_expectations.core import ExpectationSuiteValidationResult
from markupsafe import Markup

from serm.escaping import asset, policy, templates
from serm.settings import CycleSettings

_ROOM = "serm.validation"


def write_page(path: Path, dataset: str, cycle: CycleSettings, result: ExpectationSuiteValidationResult) -> None:
    """Write the page of the suite of ``dataset``: each expectation with its verdict, what was found and allowed."""
    failed_first = sorted(result.results, key=lambda one: bool(one.success))
    _write(path, "suite", cycle, dataset=dataset, results=failed_first, passed=result.success, version=gx.__version__)


def write_index(
    path: Path, cycle: CycleSettings, verdicts: dict[str, bool], unchecked: Sequence[tuple[str, str, str]]
) -> None:
    """Write the page that links to the page of each dataset, with the verdict of its suite.

    ``unchecked`` are (dataset, rule, why) of what could not be checked.
    """
    _write(path, "index", cycle, verdicts=verdicts, unchecked=unchecked)


def _write(path: Path, name: str, cycle: CycleSettings, **values: object) -> None:
    style = asset(_ROOM, "data_docs.css")
    page = templates(_ROOM).get_template(f"{name}.html.jinja")
    head = {"policy": policy(styles=[style]), "style": Markup(style), "cycle": cycle}
    path.write_text(page.render(**head, **values) + "\n", encoding="utf-8")
