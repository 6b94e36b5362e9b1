"""The step that mines a window for the pairs worth a judge's time."""

from __future__ import annotations

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
from serm.clicks import PositionBasedModel
from serm.errors import UserError
from serm.mining import candidates as cascade
from serm.mining import rejection
from serm.mining.agents import AGENTS, ask
from serm.mining.opinion import Thresholds
from serm.mining.scoring import score, with_model_thresholds
from serm.mining.selection import Selection, select
from serm.settings import MiningSettings, Settings
from serm.step import Figures, step

if TYPE_CHECKING:
    from serm.relevance import RelevanceModel


@step
def mine(validated: Path, champion: Path, judgments: Path, out: Path, settings: Settings) -> Figures:
    """Write the mined pairs to ``out/pairs`` (MINED_PAIRS) and the cascade's counts to ``out/mining.json``.

    Args:
        validated: the validate step's output; its impressions and documents are read.
        champion: the relevance model whose mistakes are looked for.
        judgments: all judgments so far (JUDGMENTS); a pair in them is not mined again.
        out: the output directory.
        settings: the sections cycle, engine, clicks and mining are read.

    Raises:
        UserError: an input is missing, or no pair was shown ``mining.min_impressions`` times.
    """
    from serm import relevance  # torch: not for those who only want the agents

    model = relevance.load(champion)
    with engines.connect(settings.engine) as engine, replace_directory(out) as beside:
        mined, summary = mine_pairs(
            engine,
            contracts.scan(engine, validated / "impressions", contracts.IMPRESSIONS),
            contracts.scan(engine, validated / "documents", contracts.DOCUMENTS),
            contracts.scan(engine, judgments, contracts.JUDGMENTS),
            model,
            relevance.document_text,
            settings,
        )
        contracts.write(mined, beside / "pairs", contracts.MINED_PAIRS)
        write_json(beside / "mining.json", summary)
    by_agent = {f"mined by {agent}": counts["mined"] for agent, counts in summary["by_agent"].items()}
    return {**summary["cascade"], **by_agent}


@dataclass(frozen=True)
class Evidence:
    """What is known of a window before pairs are selected."""

    scored: pa.Table
    """``candidates.describe``'s columns of the scored pairs, with score, disagreement and uncertainty."""
    opinions: pa.Table
    """What the agents chose among them (see ``agents.ask``)."""
    summary: dict[str, Any]
    """What ``mining.json`` holds, but for what is mined."""


def mine_pairs(
    engine: BaseBackend,
    impressions: ibis.Table,
    documents: ibis.Table,
    judgments: ibis.Table,
    model: RelevanceModel,
    document_text: Callable[[str, str], str],
    settings: Settings,
) -> tuple[pa.Table, dict[str, Any]]:
    """Return the mined pairs, in the order of query, locale and doc_id, and what ``mining.json`` holds."""
    evidence = look(engine, impressions, documents, judgments, model, document_text, settings)
    selection = select(evidence.scored, evidence.opinions, settings.mining)
    mined = _mined(evidence.scored, evidence.opinions, selection)
    summary = {
        **evidence.summary,
        "cascade": {**evidence.summary["cascade"], "mined": mined.num_rows},
        "duplicates": selection.duplicates,
        "by_agent": _by_agent(evidence.opinions, mined),
    }
    return mined, summary


def look(
    engine: BaseBackend,
    impressions: ibis.Table,
    documents: ibis.Table,
    judgments: ibis.Table,
    model: RelevanceModel,
    document_text: Callable[[str, str], str],
    settings: Settings,
) -> Evidence:
    """Score the window's candidates and ask the agents.

    The three tables are ``engine``'s own or in memory; the click statistics become temporary tables in it.
    """
    options = settings.mining
    # Temporary tables, which go with the engine: the log is read once.
    counted = cascade.count(impressions, model.version, settings.cycle.middle)
    counts = engine.create_table("click_counts", counted, temp=True)
    numbers = clicks.ClickCounts.read(counts)
    fitted = clicks.fit(numbers, settings.clicks)
    described = cascade.describe(counts, fitted, numbers.expected_clicks(), judgments)
    pairs = engine.create_table("pairs", described, temp=True)
    seen = pairs.filter(pairs.impressions >= options.min_impressions)
    thresholds = _click_thresholds(seen, options)
    candidates = seen.filter(~seen.judged).semi_join(documents, "doc_id")
    candidate_count = int(candidates.count().to_pyarrow().as_py())
    chosen, kinds = cascade.to_score(candidates, thresholds, options)
    texts = documents.select("doc_id", "title", "body")
    scored = chosen.join(texts, "doc_id").order_by("pair").to_pyarrow()

    scored = score(scored, model, document_text, options).drop_columns(["title", "body"])
    thresholds = with_model_thresholds(scored, thresholds, options)
    opinions = engine.to_pyarrow(ask(ibis.memtable(scored), thresholds))
    summary = {
        "cascade": {
            "impressions": int(numbers.impressions.sum()),
            "pairs": numbers.pairs,
            "candidates": candidate_count,
            "scored": scored.num_rows,
            "named": len(np.unique(opinions["pair"].to_numpy())),
        },
        "scored": kinds,
        "thresholds": asdict(thresholds),
        "click_model": _click_model(fitted, numbers),
        "champion": model.version,
    }
    return Evidence(scored, opinions, summary)


def _click_thresholds(pairs: ibis.Table, options: MiningSettings) -> Thresholds:
    """Return the thresholds on what users did, over the pairs shown often enough, judged ones included.

    Where the champion's scores are not in the log, tau_o is 0 until pairs are scored.
    """
    quantiles = pairs.aggregate(
        over_scored_above=pairs.logged.quantile(options.over_scored_quantile).fill_null(0.0),
        clicks=pairs.clicks_over_expected.quantile(options.click_quantile or 0.0),
        engagement=pairs.engagement.quantile(options.engagement_quantile),
        relevance=pairs.relevance.quantile(options.attractiveness_quantile),
        skipped_below=rejection.ceiling(pairs).quantile(options.skipped_quantile),
        dislike_rate=pairs.dislike_rate.quantile(options.dislike_quantile),
    )
    (row,) = quantiles.to_pyarrow().to_pylist()
    if row["relevance"] is None:
        raise UserError(
            f"mining: no pair of this window was shown {options.min_impressions} times; "
            "lower mining.min_impressions or widen the window in params.yaml."
        )
    if options.click_quantile is None:
        row["clicks"] = None
    return Thresholds(
        under_scored_below=options.under_scored_below, novelty=options.min_novelty, rise=options.min_rise, **row
    )


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


def _by_agent(opinions: pa.Table, mined: pa.Table) -> dict[str, dict[str, int]]:
    """Return for each agent how many scored pairs it chose, and how many of those were mined."""
    candidates = Counter(opinions["agent"].to_pylist())
    taken = Counter(one["agent"] for agents in mined["agents"].to_pylist() for one in agents)
    return {agent: {"candidates": candidates[agent], "mined": taken[agent]} for agent in AGENTS}


def _click_model(model: PositionBasedModel, counts: clicks.ClickCounts) -> dict[str, Any]:
    """Return what the report shows of the click model; a rank that the window lacks has a null perplexity."""
    perplexity = model.perplexity(counts)
    return {
        "name": "position-based model",
        "examination": model.examination.tolist(),
        "perplexity": [None if np.isnan(rank) else float(rank) for rank in perplexity],
        "log_likelihood": model.log_likelihood(counts),
        "traces": [list(trace) for trace in model.traces],
        "converged": model.converged,
    }
