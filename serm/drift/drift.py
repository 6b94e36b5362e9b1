"""The step that compares a window with earlier ones and decides whether the model must evolve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serm import contracts
from serm import engine as engines
from serm.atomic import replace_directory, write_json
from serm.drift import catalogue, columns, heavy_users, novelty, sample
from serm.drift.behaviour import Behaviour
from serm.drift.decision import DriftTest, decided
from serm.drift.embeddings import Embed, Embeddings, Topic
from serm.drift.permutation import Permutations
from serm.errors import UserError
from serm.settings import DriftSettings, RelevanceSettings, Settings
from serm.step import Figures, step


@step
def drift(reference: Path, windows: Path, validated: Path, champion: Path, out: Path, settings: Settings) -> Figures:
    """Decide ``evolve`` or ``quiet``, with reasons, and write them to ``out/drift.json`` beside Evidently's report.

    The decision is ``evolve`` when a test found drift: significant with all tests together (Holm), its effect at
    least as large as its floor, and farther from the earlier windows than any of them lies from the others (see
    ``DriftSettings``). ``out/windows`` gets the samples of the latest windows, this one's too, for the next cycle.

    Args:
        reference: IMPRESSIONS of the last window.
        windows: what an earlier cycle wrote to ``out/windows``; with none there, the reference is all that is known.
        validated: what validate wrote.
        champion: the model whose encoder embeds queries.
        out: the directory to write.
        settings: ``drift``, ``cycle`` and ``engine`` are read.

    Raises:
        UserError: the reference or the window is missing or has no rows, or there is no model.
    """
    options, cycle = settings.drift, settings.cycle.number
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        before = contracts.scan(engine, reference, contracts.IMPRESSIONS)
        now = contracts.scan(engine, validated / "impressions", contracts.IMPRESSIONS)
        for path, table in ((reference, before), (validated / "impressions", now)):
            if not table.count().to_pyarrow().as_py():
                raise UserError(f"{path}: no impressions to compare; run the step before on a window that has some.")
        samples = _earlier(windows / "impressions", contracts.SAMPLES, cycle)
        if not len(samples):
            samples = sample.draw_users(before, cycle - 1, options)
        compared = sample.together([samples], sample.draw_users(now, cycle, options))
        catalogues = _earlier(windows / "catalogue", contracts.CATALOGUES, cycle)
        documents = contracts.scan(engine, validated / "documents", contracts.DOCUMENTS)
        offered = sample.draw_documents(documents, cycle, options)
        clicks = [heavy_users.clicks_of_users(window) for window in (before, now)]
        drifts, sampled = columns.compare(before, now, options, beside, settings.cycle)
        news = novelty.find(before, now)
        tests, topics = exchange(compared, _embed(champion, settings.relevance), options)
        tests += [
            heavy_users.test_heaviest(clicks[0], clicks[1], options),
            catalogue.compare(_latest(catalogues), offered, options),
        ]
        tests = decided(tests, options.alpha)
        reasons = [f"{one.name}: {one.finding}" for one in tests if one.decision == "drift"]
        decision = "evolve" if reasons else "quiet"
        _keep(compared.rows, beside / "windows" / "impressions", contracts.SAMPLES, options)
        _keep(pa.concat_tables([catalogues, offered]), beside / "windows" / "catalogue", contracts.CATALOGUES, options)
        write_json(
            beside / "drift.json",
            {
                "decision": decision,
                "reasons": reasons,
                "alpha": options.alpha,
                "correction": "holm",
                "tests": [_rounded(asdict(one)) for one in tests],
                "topics": [_rounded(asdict(one)) for one in topics],
                "windows": _told(compared),
                "columns": {name: asdict(drift) for name, drift in drifts.items()},
                "sampled": sampled,
                **asdict(news),
            },
        )
    return {
        "decision": decision,
        "tests": sum(one.decision != "not tested" for one in tests),
        "drifted": len(reasons),
        "new_query_share": round(news.new_query_share, 4),
        "new_locales": len(news.new_locales),
        "topics": len(topics),
    }


def exchange(windows: sample.Windows, embed: Embed, settings: DriftSettings) -> tuple[list[DriftTest], list[Topic]]:
    """Make all tests that exchange users; return them, not yet judged, and the topics that grew."""
    permutations = Permutations(windows.window, settings.permutations, settings.seed)
    meanings, topics = Embeddings(windows, permutations, embed, settings).tests()
    return [*meanings, *Behaviour(windows, permutations, settings).tests()], topics


def _embed(champion: Path, settings: RelevanceSettings) -> Embed:
    from serm import relevance

    encoder = relevance.load(champion, settings).encoder

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return encoder.embed(texts, "query")

    return embed


def _earlier(path: Path, schema: pa.Schema, cycle: int) -> pa.Table:
    """Return the rows of earlier cycles; none where there is no such dataset, as before the first."""
    if not path.exists():
        return schema.empty_table()
    rows = contracts.read(path, schema)
    return rows.filter(pc.less(rows["cycle"], cycle))


def _latest(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["cycle"], pc.max(rows["cycle"])))


def _keep(rows: pa.Table, path: Path, schema: pa.Schema, settings: DriftSettings) -> None:
    """Write the rows of the latest ``earlier_windows`` cycles."""
    cycles = sorted(pc.unique(rows["cycle"]).to_pylist())[-settings.earlier_windows :]
    contracts.write(rows.filter(pc.is_in(rows["cycle"], pa.array(cycles, pa.int32()))), path, schema)


def _rounded(values: dict[str, object]) -> dict[str, object]:
    """Leave out the digits that depend on how many threads summed."""
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in values.items()}


def _told(windows: sample.Windows) -> list[dict[str, int]]:
    """Return what the tests saw of each window."""
    users = np.bincount(windows.window)
    searches = np.bincount(windows.window[windows.user])
    return [
        {"cycle": cycle, "users": int(users[i]), "searches": int(searches[i])} for i, cycle in enumerate(windows.cycles)
    ]
