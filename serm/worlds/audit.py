"""What only a simulated world can tell: a cycle's labels and mined pairs beside the hidden truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from serm import contracts
from serm import engine as engines
from serm.judging.trust import measure
from serm.settings import EngineSettings
from serm.worlds.emoji import EmojiWorld

Array = npt.NDArray[Any]

_KEY = ["query", "locale", "doc_id"]
_OUTSIDE = "outside knowledge"


def audit(workspace: Path, world: EmojiWorld) -> dict[str, Any]:
    """Compare the cycle in ``workspace/cycle`` with the hidden truth, before ``serm advance``.

    Returns:
        ``labels``, ``labels_by_locale``, ``labels_by_agent``: the panel's kept labels (``pairs``, ``accuracy``,
        ``base_rate``, ``quadratic_kappa``, and the shares ``over_rated`` and ``under_rated``).
        ``judges``: the same for each judge over the mined pairs, with ``keep_rate``, the share it did not abstain on.
        ``panels``: the same where all judges agree, with and without the outside knowledge; ``keep_rate`` is the
        share on which they do.
        ``mined``, ``mined_by_agent``, ``shown``: ``pairs``, and the share ``wrong`` on which the champion's
        expected grade is off by a grade or more; ``shown`` is every pair that users saw and nobody has judged.
        ``lift``: wrong mined over wrong shown, null if none was wrong.
    """
    cycle = workspace / "cycle"
    mined = _graded(contracts.read(cycle / "mine" / "pairs", contracts.MINED_PAIRS), world)
    labels = _graded(contracts.read(cycle / "annotate" / "judgments", contracts.JUDGMENTS), world)
    votes = _graded(contracts.read(cycle / "annotate" / "votes", contracts.VOTES), world)
    shown = _graded(_shown(cycle / "validate" / "impressions", workspace / "state" / "judgments"), world)
    agents = mined.assign(agent=mined["agents"].map(lambda chosen: sorted({one["agent"] for one in chosen})))
    agents = agents.explode("agent")[[*_KEY, "agent", "score", "truth"]]
    by_agent = labels.merge(agents[[*_KEY, "agent"]], on=_KEY)
    panel = votes.pivot(index=[*_KEY, "truth"], columns="judge", values="grade").sort_index().sort_index(axis=1)
    wrong_mined, wrong_shown = _wrong(mined), _wrong(shown)
    return {
        "labels": _trust(labels),
        "labels_by_locale": {locale: _trust(rows) for locale, rows in labels.groupby("locale")},
        "labels_by_agent": {agent: _trust(rows) for agent, rows in by_agent.groupby("agent")},
        "judges": {judge: _trust(rows) for judge, rows in votes.groupby("judge")},
        "panels": {
            "all judges": _unanimous(panel),
            "without outside knowledge": _unanimous(panel.drop(columns=_OUTSIDE, errors="ignore")),
        },
        "mined": wrong_mined,
        "mined_by_agent": {agent: _wrong(rows) for agent, rows in agents.groupby("agent")},
        "shown": wrong_shown,
        "lift": round(wrong_mined["wrong"] / wrong_shown["wrong"], 4) if wrong_shown["wrong"] else None,
    }


def _graded(pairs: pa.Table, world: EmojiWorld) -> pd.DataFrame:
    """Return the pairs with their true grade in ``truth``; queries that are not of the world are left out."""
    truth = world.truth.lookup(*(pairs[name].combine_chunks() for name in _KEY))
    frame: pd.DataFrame = pairs.to_pandas().assign(truth=truth)
    return frame[frame["truth"] >= 0]


def _shown(impressions: Path, judgments: Path) -> pa.Table:
    """Return each shown and unjudged (query, locale, doc_id) with the champion's mean score, in a fixed order."""
    with engines.connect(EngineSettings()) as engine:
        log = contracts.scan(engine, impressions, contracts.IMPRESSIONS)
        judged = contracts.scan(engine, judgments, contracts.JUDGMENTS)
        pairs = log.group_by(_KEY).agg(score=log["score"].mean()).anti_join(judged, _KEY)
        return pairs.order_by(_KEY).to_pyarrow()


def _trust(rows: pd.DataFrame) -> dict[str, Any]:
    """Measure the labels ``grade`` against ``truth``; a null grade is an abstention."""
    voted = rows["grade"].notna().to_numpy()
    grade = rows["grade"].fillna(0).to_numpy(np.int64)
    return _measure(grade, rows["truth"].to_numpy(np.int64), voted)


def _unanimous(panel: pd.DataFrame) -> dict[str, Any]:
    """Measure the grade of the judges (columns) on the pairs (rows) where all who vote, two at least, give the same."""
    grades = panel.fillna(-1).to_numpy(np.int64)
    highest, voted = grades.max(axis=1), grades >= 0
    agree = ((grades == highest[:, None]) | ~voted).all(axis=1) & (voted.sum(axis=1) > 1)
    return _measure(highest, panel.index.get_level_values("truth").to_numpy(np.int64), agree)


def _measure(grades: Array, truth: Array, kept: Array) -> dict[str, Any]:
    if not len(truth):
        return {"pairs": 0}
    figures: dict[str, Any] = {**measure(grades, truth, kept)}
    if kept.any():
        figures["over_rated"] = round(float((grades > truth)[kept].mean()), 4)
        figures["under_rated"] = round(float((grades < truth)[kept].mean()), 4)
    return figures


def _wrong(rows: pd.DataFrame) -> dict[str, Any]:
    off = (rows["score"] - rows["truth"]).abs() >= 1
    return {"pairs": len(rows), "wrong": round(float(off.mean()), 4) if len(rows) else 0.0}
