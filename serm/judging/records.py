"""What a panel decided, as datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from serm import contracts
from serm.judging.agreement import Decision
from serm.judging.evidence.retrieval import Piece
from serm.judging.judge import ABSTAINED, Floats, Integers, Pairs, Votes

_EVIDENCE = contracts.VOTES.field("evidence").type


def judgments_table(
    pairs: Pairs, votes: Mapping[str, Votes], decision: Decision, cycle: int, panel_version: str
) -> pa.Table:
    """Return the kept labels as JUDGMENTS; the rationale names each judge and gives its own."""
    rows = np.flatnonzero(decision.kept)
    kept = pairs.take(rows)
    return pa.table(
        {
            "query": kept.queries,
            "locale": kept.locales,
            "doc_id": kept.doc_ids,
            "grade": pa.array(decision.grades[rows], pa.int8()),
            "rationale": [_merged(votes, row) for row in rows.tolist()],
            "source": ["panel"] * len(rows),
            "cycle": pa.array([cycle] * len(rows), pa.int32()),
            "panel_version": [panel_version] * len(rows),
            "agreement": decision.agreement[rows],
            "distribution": _lists(decision.distribution, rows),
        }
    )


def shown_table(pairs: pa.Table, belief: Floats, cycle: int, panel_version: str) -> pa.Table:
    """Return pairs (query, locale, doc_id) that users were shown, with the ``belief`` [n, 4] in them, as JUDGMENTS."""
    count = pairs.num_rows
    return pa.table(
        {
            **{name: pairs[name] for name in ("query", "locale", "doc_id")},
            "grade": pa.array(belief.argmax(axis=1), pa.int8()),
            "rationale": pa.nulls(count, pa.string()),
            "source": pa.repeat("shown", count),
            "cycle": pa.repeat(pa.scalar(cycle, pa.int32()), count),
            "panel_version": pa.repeat(panel_version, count),
            "agreement": belief.max(axis=1),
            "distribution": _lists(belief, np.arange(count)),
        }
    )


def review_table(
    pairs: Pairs,
    votes: Mapping[str, Votes],
    decision: Decision,
    priority: Floats,
    cycle: int,
    panel_version: str,
) -> pa.Table:
    """Return the pairs that were not kept as REVIEW, with each judge's vote; ``priority`` [n] is the miner's.

    A person is asked first where the answer is worth most: the miner's priority, times how far the gain ``2^grade - 1``
    of the pair is from sure in the panel's belief (its standard deviation over the largest one, 0 to 1).
    """
    rows = np.flatnonzero(~decision.kept)
    if decision.distribution is not None:
        priority = priority * _unsure(decision.distribution)
    dropped = pairs.take(rows)
    return pa.table(
        {
            "query": dropped.queries,
            "locale": dropped.locales,
            "doc_id": dropped.doc_ids,
            "title": dropped.titles,
            "reason": [decision.reasons[row] for row in rows],
            "priority": priority[rows],
            "votes": [
                [
                    {
                        "judge": name,
                        "grade": None if v.grades[row] == ABSTAINED else int(v.grades[row]),
                        "within_agreement": float(v.within_agreement[row]),
                        "rationale": v.rationales[row],
                    }
                    for name, v in votes.items()
                ]
                for row in rows
            ],
            "cycle": pa.array([cycle] * len(rows), pa.int32()),
            "panel_version": [panel_version] * len(rows),
        }
    )


def votes_table(
    pairs: Pairs, votes: Mapping[str, Votes], evidence: Mapping[str, Sequence[Sequence[Piece]]]
) -> pa.Table:
    """Return every judge's vote on every pair as VOTES.

    ``evidence`` holds, by judge, the pieces that it was shown with each pair; other judges say in their rationale
    what they looked at.
    """
    judges = list(votes.values())
    shown = [pieces for name in votes for pieces in evidence.get(name, [()] * len(pairs))]
    grades = np.concatenate([v.grades for v in judges])
    distribution = np.concatenate([v.distribution for v in judges])
    return pa.table(
        {
            "query": pairs.queries * len(judges),
            "locale": pairs.locales * len(judges),
            "doc_id": pairs.doc_ids * len(judges),
            "judge": np.repeat(list(votes), len(pairs)),
            "grade": pa.array(grades, pa.int8(), mask=grades == ABSTAINED),
            "distribution": pa.FixedSizeListArray.from_arrays(distribution.ravel(), distribution.shape[1]),
            "within_agreement": np.concatenate([v.within_agreement for v in judges]),
            "rationale": [rationale for v in judges for rationale in v.rationales],
            "evidence": pa.array([[p._asdict() for p in pieces] for pieces in shown], _EVIDENCE),
        }
    )


def _unsure(belief: Floats) -> Floats:
    """Return the gain's standard deviation under ``belief`` [n, 4] over the largest that there is, 0 to 1."""
    gains = 2.0 ** np.arange(belief.shape[1]) - 1
    variance = belief @ gains**2 - (belief @ gains) ** 2
    deviations: Floats = np.sqrt(variance.clip(min=0)) / (gains.max() / 2)
    return deviations


def _merged(votes: Mapping[str, Votes], row: int) -> str:
    return " ".join(
        f"{name} (abstained): {v.rationales[row]}"
        if v.grades[row] == ABSTAINED
        else f"{name} ({v.grades[row]}): {v.rationales[row]}"
        for name, v in votes.items()
    )


def _lists(belief: Floats | None, rows: Integers) -> pa.Array:
    kind = contracts.JUDGMENTS.field("distribution").type
    if belief is None:
        return pa.nulls(len(rows), kind)
    return pa.array(belief[rows].tolist(), kind)
