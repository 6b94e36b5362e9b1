"""The step that mines a window for the pairs worth a judge's time."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends import BaseBackend

from serm import clicks, contracts
from serm import engine as engines
from serm.atomic import replace_directory, write_json
from serm.errors import UserError
from serm.mining import candidates as cascade
from serm.mining import clusters, rejection
from serm.mining.agents import AGENTS, ask, seated
from serm.mining.opinion import Thresholds
from serm.mining.scoring import score, with_model_thresholds
from serm.mining.selection import Selection, select
from serm.pairs import test_sets
from serm.pairs.documents import with_documents
from serm.settings import MiningSettings, Settings, Threshold
from serm.step import Figures, step, unfinished

if TYPE_CHECKING:
    from serm.relevance import Model


@dataclass(frozen=True)
class Inputs:
    """What the miner reads: tables of its engine, or in memory, and the champion."""

    impressions: ibis.Table
    """The window (IMPRESSIONS)."""
    reference: ibis.Table
    """The window before it (IMPRESSIONS), which tells what is new."""
    documents: ibis.Table
    judgments: ibis.Table
    tests: ibis.Table
    """The test sets, with a column ``query``: what asks as they do is not mined."""
    model: Model
    document_text: Callable[[str, str], str]
    """A document's title and body to the text that the model reads."""


@step
def mine(
    validated: Path,
    reference: Path,
    champion: Path,
    judgments: Path,
    tests: Path,
    out: Path,
    settings: Settings,
    kept: Path | None = None,
) -> Figures:
    """Mine the window.

    Writes ``out`` with pairs/ (MINED_PAIRS), click_estimates/ (CLICK_ESTIMATES: what users did with every pair of the
    window, for the judges too) and mine.json (the cascade's counts).

    Killed while it scores, it goes on from the last finished part when it is run again with the same ``out``, or the
    same ``kept``.

    Args:
        validated: the validate step's output; its impressions and documents are read.
        reference: the impressions of the window before (IMPRESSIONS).
        champion: the relevance model whose mistakes are looked for.
        judgments: all judgments so far (JUDGMENTS); a pair in them is not mined again, unless its source is ``shown``.
        tests: the test sets, as ``serm.pairs.test_sets`` says; no pair of a test query is mined, however it is written
            and in whichever locale, or models would learn what they are tested on.
        out: the output directory.
        settings: the sections cycle, engine, clicks and mining are read.
        kept: the directory for finished parts; None: ``<out>.scored`` beside ``out``.

    Raises:
        UserError: an input is missing, or no pair was shown ``mining.min_impressions`` times.
    """
    from serm import relevance  # torch: not for those who only want the agents

    finished = unfinished(out, "scored", kept)
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        inputs = Inputs(
            contracts.scan(engine, validated / "impressions", contracts.IMPRESSIONS),
            contracts.scan(engine, reference, contracts.IMPRESSIONS),
            contracts.scan(engine, validated / "documents", contracts.DOCUMENTS),
            # What was labelled only because users were shown it may be mined: judges have not seen it.
            contracts.scan(engine, judgments, contracts.JUDGMENTS).filter(lambda judged: judged.source != "shown"),
            test_sets.held_out(engine, tests),
            relevance.load(champion, settings.relevance),
            relevance.document_text,
        )
        mined = mine_pairs(engine, inputs, settings, finished)
        contracts.write(mined.pairs, beside / "pairs", contracts.MINED_PAIRS)
        engines.write(engine, mined.clicks, beside / "click_estimates", contracts.CLICK_ESTIMATES, clicks.PAIR)
        write_json(beside / "mine.json", mined.summary)
    shutil.rmtree(finished, ignore_errors=True)
    by_agent = {f"mined by {agent}": counts["mined"] for agent, counts in mined.summary["by_agent"].items()}
    return {**mined.summary["cascade"], **by_agent}


@dataclass(frozen=True)
class Scored:
    """What is known of a window before pairs are selected."""

    scored: pa.Table
    """``candidates.describe``'s columns of the scored pairs, with score, disagreement and uncertainty."""
    opinions: pa.Table
    """What the agents chose among them (see ``agents.ask``)."""
    clicks: ibis.Table
    """What users did with each pair of the window (CLICK_ESTIMATES); a table of the engine."""
    summary: dict[str, Any]
    """What ``mine.json`` holds, but for what is mined."""


@dataclass(frozen=True)
class Mined:
    """What the step writes."""

    pairs: pa.Table
    """MINED_PAIRS, in the order of query, locale and doc_id."""
    clicks: ibis.Table
    """As in ``Scored``."""
    summary: dict[str, Any]
    """What ``mine.json`` holds."""


def mine_pairs(engine: BaseBackend, inputs: Inputs, settings: Settings, finished: Path) -> Mined:
    """Choose the pairs of a window; ``finished`` is as in ``look``."""
    evidence = look(engine, inputs, settings, finished)
    selection = select(evidence.scored, evidence.opinions, evidence.summary["thresholds"]["novelty"], settings.mining)
    mined = _mined(evidence.scored, evidence.opinions, selection)
    summary = {
        **evidence.summary,
        "cascade": {**evidence.summary["cascade"], "mined": mined.num_rows},
        "duplicates": selection.duplicates,
        "by_agent": _by_agent(evidence.opinions, mined, [*AGENTS, *settings.mining.agents]),
    }
    return Mined(mined, evidence.clicks, summary)


def look(engine: BaseBackend, inputs: Inputs, settings: Settings, finished: Path) -> Scored:
    """Score the window's candidates and ask the agents.

    The click statistics become temporary tables of the engine; scores are kept in ``finished`` (see ``scoring``). What
    one user saw of a pair beyond ``clicks.per_user`` times counts nowhere, ``beyond_per_user`` such impressions.
    """
    options, model = settings.mining, inputs.model
    agents = seated(options)
    # Temporary tables, which go with the engine.
    beyond = engines.hold(engine, "beyond", clicks.beyond(inputs.impressions, settings.clicks.per_user))
    impressions = inputs.impressions.anti_join(beyond, clicks.IMPRESSION)
    counted = cascade.count(impressions, model.version, settings.cycle.middle, settings.clicks.satisfied_seconds)
    counts = engine.create_table("click_counts", counted, temp=True)
    numbers = clicks.ClickCounts.read(counts)
    numbered = engines.hold(engine, "page_rows", clicks.number(impressions, counts))
    fitted = clicks.fit(numbered, numbers, settings.clicks)
    now = counts.group_by("query", "locale").aggregate(shown=counts.impressions.sum())
    before = inputs.reference.group_by("query", "locale").aggregate(shown=inputs.reference.count())
    emerging = clusters.emerging(now, before, lambda texts: model.encoder.embed(texts, "query"), options)
    described = cascade.describe(counts, fitted, numbers.expected_clicks(), inputs.judgments, emerging)
    pairs = engine.create_table("pairs", described, temp=True)
    seen = pairs.filter(pairs.impressions >= options.min_impressions)
    thresholds = _click_thresholds(seen, options)
    tests = test_sets.asked_alike(engine, pairs, inputs.tests)
    candidates = with_documents(seen.filter(~seen.judged), inputs.documents).anti_join(tests, "query")
    candidate_count = int(candidates.count().to_pyarrow().as_py())
    chosen, kinds = cascade.to_score(candidates, thresholds, options)
    asked = with_documents(chosen, inputs.documents, ("title", "body")).order_by("pair").to_pyarrow()
    unseen = cascade.unseen(engine, pairs, asked, inputs.documents, inputs.judgments, model, options)

    asked = pa.concat_tables([asked, unseen], promote_options="default")
    scored = score(asked, model, inputs.document_text, options, finished).drop_columns(["title", "body"])
    thresholds = with_model_thresholds(scored, thresholds, options)
    opinions = engine.to_pyarrow(ask(ibis.memtable(scored), thresholds, agents))
    summary = {
        "cascade": {
            "impressions": int(numbers.impressions.sum()),
            "pairs": numbers.pairs,
            "candidates": candidate_count,
            "unseen": unseen.num_rows,
            "scored": scored.num_rows,
            "named": len(np.unique(opinions["pair"].to_numpy())),
        },
        "beyond_per_user": int(beyond.count().to_pyarrow().as_py()),
        "scored": {**kinds, "unseen": unseen.num_rows},
        "thresholds": asdict(thresholds),
        "click_model": fitted.summary,
        "champion": model.version,
    }
    return Scored(scored, opinions, cascade.estimates(counts, fitted, settings.clicks, tests), summary)


def _click_thresholds(pairs: ibis.Table, options: MiningSettings) -> Thresholds:
    """Return the thresholds on what users did, over the pairs shown often enough, judged ones included.

    Where the champion's scores are not in the log, a quantile of f is 0 until pairs are scored.
    """

    def tau(column: ibis.Value, threshold: Threshold) -> ibis.Value:
        if threshold.quantile is None:
            return ibis.literal(threshold.value)
        return column.quantile(threshold.quantile)

    taus = pairs.aggregate(
        pairs=pairs.count(),
        under_scored_below=tau(pairs.logged, options.under_scored).fill_null(0.0),
        over_scored_above=tau(pairs.logged, options.over_scored).fill_null(0.0),
        clicks=tau(pairs.clicks_over_expected, options.clicks or Threshold(value=0.0)),
        engagement=tau(pairs.engagement, options.engagement),
        relevance=tau(pairs.relevance, options.attractiveness),
        skipped_below=tau(rejection.ceiling(pairs), options.skipped),
        dislike_rate=tau(pairs.dislike_rate, options.disliked),
        novelty=tau(pairs.novelty, options.novelty),
        rise=tau(pairs.rise, options.rise),
    )
    (row,) = taus.to_pyarrow().to_pylist()
    if not row.pop("pairs"):
        raise UserError(
            f"mining: no pair of this window was shown {options.min_impressions} times; "
            "lower mining.min_impressions or widen the window in params.yaml."
        )
    if options.clicks is None:
        row["clicks"] = None
    return Thresholds(**row)


def _mined(scored: pa.Table, opinions: pa.Table, selection: Selection) -> pa.Table:
    """Return the selected pairs of ``scored`` with the reason of each agent that chose them."""
    reasons: dict[int, list[dict[str, str]]] = {int(pair): [] for pair in selection.pair}
    for opinion in opinions.to_pylist():
        if opinion["pair"] in reasons:
            reasons[opinion["pair"]].append({"agent": opinion["agent"], "reason": opinion["reason"]})
    mined = scored.filter(pc.is_in(scored["pair"], pa.array(selection.pair)))
    agents_type = contracts.MINED_PAIRS.field("agents").type
    mined = mined.append_column("agents", pa.array(reasons.values(), agents_type))
    return contracts.conform(
        mined.append_column("priority", pa.array(selection.priority)), Path("mined pairs"), contracts.MINED_PAIRS
    )


def _by_agent(opinions: pa.Table, mined: pa.Table, agents: list[str]) -> dict[str, dict[str, int]]:
    """Return for each agent how many scored pairs it chose, and how many of those were mined."""
    candidates = Counter(opinions["agent"].to_pylist())
    taken = Counter(one["agent"] for named in mined["agents"].to_pylist() for one in named)
    return {agent: {"candidates": candidates[agent], "mined": taken[agent]} for agent in agents}
