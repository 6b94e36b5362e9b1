"""Evidently's comparison of two windows, column by column, on samples that the engine draws."""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from typing import Any
from uuid import UUID

import ibis

os.environ["DO_NOT_TRACK"] = "1"  # Evidently phones home unless told not to before it is imported

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.report import Snapshot
from evidently.presets import DataDriftPreset

from serm.atomic import write_json, write_text
from serm.escaping import policy, unmarked
from serm.settings import CycleSettings, DriftSettings

_RANDOM_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=metric_)[0-9a-f]{32}")

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
#: The data, a global, Evidently's library, the call that draws.
_SCRIPTS = 4

#: Column -> Evidently's method; the distances are normed Wasserstein, Jensen-Shannon and a classifier's ROC AUC.
METHODS = {
    "query_length": "wasserstein",
    "score": "wasserstein",
    "locale": "jensenshannon",
    "clicked": "jensenshannon",
    "query": "abs_text_content_drift",
}


@dataclass(frozen=True)
class Drift:
    """How far a column of the window lies from the reference; ``drifted`` is Evidently's mark and decides nothing."""

    method: str
    distance: float
    threshold: float
    drifted: bool


def compare(
    reference: ibis.Table, window: ibis.Table, settings: DriftSettings, out: Path, cycle: CycleSettings
) -> tuple[dict[str, Drift], dict[str, float]]:
    """Compare the IMPRESSIONS ``window`` with ``reference``; write ``report.html`` and ``.json`` to ``out``.

    So is ``snapshot.json``, in Evidently's own form for its workspaces: a run named by the cycle, at its window's end.

    Returns the columns' drift, and the rows that Evidently saw with their ``error``: at 95 %, no share and no value
    of a distribution function in the smaller sample lies farther than that from the whole window's (Dvoretzky,
    Kiefer and Wolfowitz; the constant is Massart's, Annals of Probability 18, 1990). ``score`` is left out where a
    window has none.
    """
    frames = {"reference": _sample(reference, settings), "window": _sample(window, settings)}
    columns = [name for name in METHODS if all(frame[name].notna().any() for frame in frames.values())]
    thresholds = {name: settings.text_threshold if name == "query" else settings.column_threshold for name in columns}
    numbers = [name for name in columns if METHODS[name] == "wasserstein"]
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=["locale", "clicked"], text_columns=["query"]
    )
    data = {name: Dataset.from_pandas(frame[columns], definition) for name, frame in frames.items()}
    preset = DataDriftPreset(
        columns=columns,
        drift_share=1 / len(columns),  # the page's headline, as our decision: one column is enough
        per_column_method={name: METHODS[name] for name in columns},
        per_column_threshold=thresholds,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the text classifier stops at 50 rounds, converged or not
        snapshot = Report([preset]).run(data["window"], data["reference"], timestamp=cycle.end, name=cycle.name)
    report = _write(snapshot, out)
    distances = {
        metric["config"]["column"]: metric["value"] for metric in report["metrics"] if "column" in metric["config"]
    }
    drifts = {
        name: Drift(METHODS[name], distances[name], thresholds[name], distances[name] >= thresholds[name])
        for name in columns
    }
    seen: dict[str, float] = {name: len(frame) for name, frame in frames.items()}
    return drifts, seen | {"error": round(sqrt(log(2 / 0.05) / (2 * min(seen.values()))), 4)}


def _sample(impressions: ibis.Table, settings: DriftSettings) -> pd.DataFrame:
    """Draw one impression of each of ``settings.sample_searches`` searches, the same ones in every run.

    One each: a text seen ten times on one page would let the classifier tell the windows apart by heart.
    """
    seed = ibis.literal(f"{settings.seed} ")
    searches = impressions.select("query_id").distinct()
    drawn = searches.order_by((seed + searches.query_id).hexdigest("md5"), "query_id").limit(settings.sample_searches)
    shown = impressions.semi_join(drawn, "query_id")
    draw = (seed + shown.query_id + " " + shown.doc_id).hexdigest("md5")
    first = ibis.row_number().over(group_by="query_id", order_by=[draw, shown.doc_id, shown.position])
    one_each = shown.mutate(rank=first).filter(lambda row: row.rank == 0).order_by("query_id")
    sample: pd.DataFrame = one_each.select(
        one_each.query,
        one_each.locale,
        one_each.score,
        query_length=one_each.query.length().cast("float64"),
        clicked=one_each.clicked.cast("string"),
    ).to_pandas()
    # Evidently puts texts raw into its scripts, its workspaces too, and Plotly takes tags in labels for markup.
    for name in ("query", "locale"):
        sample[name] = sample[name].map(unmarked, na_action="ignore")
    return sample


def _write(snapshot: Snapshot, out: Path) -> dict[str, Any]:
    """Write Evidently's HTML, sealed, and JSON without its random ids and its floats' last digits; return the JSON."""
    report: dict[str, Any] = json.loads(snapshot.json(), parse_float=lambda text: round(float(text), 6))
    write_json(out / "report.json", report)
    dumped = json.loads(snapshot.dumps(), parse_float=lambda text: round(float(text), 6))
    write_text(out / "snapshot.json", _without_chance(json.dumps(dumped)))
    write_text(out / "report.html", _sealed(_without_chance(snapshot.get_html_str(as_iframe=False))))
    return report


def _sealed(page: str) -> str:
    """Return Evidently's page with a policy under which nothing but its own scripts runs, and nothing is fetched."""
    scripts = _SCRIPT.findall(page)
    if len(scripts) != _SCRIPTS:
        raise RuntimeError(f"Evidently's page has {len(scripts)} scripts, not its own {_SCRIPTS}: is text among them?")
    allowed = policy(scripts, style_src="'unsafe-inline'", font_src="data:")  # its scripts write styles as they draw
    charset = '<meta charset="UTF-8">'
    return page.replace(charset, f'{charset}\n<meta http-equiv="Content-Security-Policy" content="{allowed}">', 1)


def _without_chance(text: str) -> str:
    """Number Evidently's random ids in the order of their appearance."""
    ids: dict[str, str] = {}
    for found in _RANDOM_ID.findall(text):
        number = UUID(int=len(ids))
        ids.setdefault(found, str(number) if "-" in found else number.hex)
    return _RANDOM_ID.sub(lambda match: ids[match[0]], text)
