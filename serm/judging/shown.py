"""The pairs of a window that users were shown often enough to be labelled by what they did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ibis
import numpy as np
import pyarrow as pa

from serm.judging.clues import Clues
from serm.judging.evidence.catalogue import Catalogue
from serm.judging.judge import GRADES, Floats, Pairs
from serm.judging.posterior import Posterior
from serm.settings import JudgingSettings

_PAIR = ("query", "locale", "doc_id")
_BATCH = 5_000
"""Pairs that are looked up at a time: what their evidence takes in memory is bounded."""


@dataclass(frozen=True)
class Shown:
    """Pairs that users were shown."""

    clicks: pa.Table
    """What they did with each (CLICK_ESTIMATES), in the order of locale, query and document."""
    of: int
    """How many pairs there were before ``max_shown`` cut them."""


def read(
    estimates: ibis.Table, judgments: ibis.Table, documents: ibis.Table, settings: JudgingSettings
) -> tuple[ibis.Table, ibis.Table]:
    """Return the shown pairs to label (CLICK_ESTIMATES), and one row with how many there are before they are cut.

    Left out are pairs shown less often than ``min_impressions``, of a test query, of a document that is gone, and those
    that a person, the seed or an earlier panel has judged. Above ``max_shown`` whole queries are drawn by a hash.

    Args:
        estimates: CLICK_ESTIMATES of a window.
        judgments: all judgments so far (JUDGMENTS).
        documents: the catalogue (DOCUMENTS).
        settings: the section judging.
    """
    often = estimates.filter((estimates.impressions >= settings.min_impressions) & ~estimates.tested)
    better = judgments.filter(judgments.source != "shown").select(*_PAIR).distinct()
    pairs = often.anti_join(better, _PAIR).semi_join(documents.select("doc_id"), "doc_id")
    queries = pairs.group_by("query", "locale").aggregate(pairs=pairs.count())
    key = f"{settings.seed}\x1f" + queries.locale + "\x1f" + queries.query
    queries = queries.mutate(draw=key.hexdigest("md5"))
    until = queries.pairs.cumsum(order_by=["draw", "locale", "query"])
    drawn = queries.mutate(until=until).filter(ibis._.until <= settings.max_shown)
    return pairs.semi_join(drawn, ["query", "locale"]).order_by("locale", "query", "doc_id"), queries.aggregate(
        pairs=queries.pairs.sum()
    )


def log_likelihood(
    shown: Shown, catalogue: Catalogue, look: Callable[[Pairs, pa.Table], Clues], posterior: Posterior
) -> Floats:
    """Return [n, 4]: the likelihood of each grade of each shown pair, under ``posterior``'s parts."""
    parts = [np.zeros((0, GRADES))]
    for start in range(0, shown.clicks.num_rows, _BATCH):
        part = shown.clicks.slice(start, _BATCH)
        parts.append(posterior.log_likelihood(look(catalogue.pairs(part), part)))
    return np.concatenate(parts)
