"""A cycle's batch: the mined pairs, the seed judgments whose grades are known, and the catalogue around them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
from ibis.backends import BaseBackend
from numpy.typing import NDArray

from serm import contracts
from serm import engine as engines
from serm.judging import shown
from serm.judging.evidence.catalogue import Catalogue
from serm.judging.judge import Floats, Integers, Pairs
from serm.judging.seed import held_out, read_reviewed, read_seed
from serm.judging.shown import Shown
from serm.pairs.documents import join
from serm.settings import Settings

_PAIR = ["query", "locale", "doc_id"]
_ORDER = [("locale", "ascending"), ("query", "ascending"), ("doc_id", "ascending")]


@dataclass(frozen=True)
class Batch:
    """What the judges get."""

    cycle: int
    pairs: Pairs
    """The n mined pairs."""
    priority: Floats
    """[n], the miner's."""
    seed: pa.Table
    """The k seed judgments in use."""
    known: Pairs
    """Their pairs."""
    grades: Integers
    """[k], the true grades."""
    unseen: NDArray[np.bool_]
    """[k], those held out: no judge is calibrated on them and no prompt shows them."""
    catalogue: Catalogue
    knowledge: pa.Table
    clicks: pa.Table
    """What users of the window did with those of the pairs, known ones too, that they saw (CLICK_ESTIMATES)."""
    click_settings: str
    """How the miner fitted the click model; empty where nobody saw anything."""
    shown: Shown
    """The pairs that users were shown often enough, for ``judging.agreement: posterior``; none for other rules."""
    reviewed: pa.Table
    """People's grades so far (JUDGMENTS), with the notes that explain them."""
    retired: int = 0
    """Mined pairs that are left out, as their documents are gone."""

    @staticmethod
    def read(mined: Path, validated: Path, judgments: Path, knowledge: Path, settings: Settings) -> Batch:
        """Read a batch; the files' order changes nothing.

        Raises:
            UserError: a dataset is missing, no mined document is in the catalogue, or there are too few seed
                judgments.
        """
        given = contracts.read(mined / "pairs", contracts.MINED_PAIRS).sort_by(_ORDER)
        with engines.connect(settings.engine) as engine:
            joined = join(engine, given, mined / "pairs", validated / "documents", ())
            catalogue = Catalogue.read(validated / "documents", settings.judging.knowledge_attribute)
            seed = read_seed(judgments, catalogue.doc_ids, settings.judging)
            both = pa.concat_tables([of.select(_PAIR) for of in (seed, joined.pairs)])
            estimates = contracts.scan(engine, mined / "click_estimates", contracts.CLICK_ESTIMATES)
            clicks, click_settings = _clicks(engine, estimates, mined / "click_estimates", both)
            seen = _shown(engine, estimates, mined / "click_estimates", judgments, validated, settings)
        look_ups = contracts.read(knowledge, contracts.KNOWLEDGE)
        table = joined.pairs
        unseen = held_out(seed, settings.judging)
        apart = [query for query, of in zip(seed["query"].to_pylist(), unseen, strict=True) if of]
        return Batch(
            cycle=settings.cycle.number,
            pairs=catalogue.pairs(table),
            priority=table["priority"].to_numpy(),
            seed=seed,
            known=catalogue.pairs(seed),
            grades=seed["grade"].to_numpy().astype(np.int64),
            unseen=unseen,
            reviewed=read_reviewed(judgments, catalogue.doc_ids, apart),
            catalogue=catalogue,
            knowledge=look_ups,
            clicks=clicks,
            click_settings=click_settings,
            shown=seen,
            retired=joined.retired.num_rows,
        )

    def pair(self, query: str, locale: str, doc_id: str) -> Pairs | None:
        """Return one pair over the catalogue; None where the document is gone."""
        row = self.catalogue.rows.get(doc_id)
        if row is None:
            return None
        c = self.catalogue
        return Pairs([query], [locale], [doc_id], [c.titles[row]], [c.texts[row]], [c.keys[row]])


def _clicks(engine: BaseBackend, estimates: ibis.Table, path: Path, pairs: pa.Table) -> tuple[pa.Table, str]:
    """Return the CLICK_ESTIMATES of ``pairs``, of all those of a log, and the settings that they were fitted by."""
    wanted = ibis.memtable(pairs, schema=ibis.schema(dict.fromkeys(_PAIR, "string")))
    found = engine.to_pyarrow(estimates.semi_join(wanted, _PAIR).order_by(_PAIR))
    (fitted_by,) = engine.to_pyarrow(estimates.select("settings").limit(1))["settings"].to_pylist() or [""]
    return contracts.conform(found, path, contracts.CLICK_ESTIMATES), fitted_by or ""


def _shown(
    engine: BaseBackend, estimates: ibis.Table, path: Path, judgments: Path, validated: Path, settings: Settings
) -> Shown:
    if settings.judging.agreement != "posterior":
        return Shown(contracts.CLICK_ESTIMATES.empty_table(), 0)
    judged = contracts.scan(engine, judgments, contracts.JUDGMENTS)
    documents = contracts.scan(engine, validated / "documents", contracts.DOCUMENTS)
    pairs, count = shown.read(estimates, judged, documents, settings.judging)
    clicks = contracts.conform(engine.to_pyarrow(pairs), path, contracts.CLICK_ESTIMATES)
    return Shown(clicks, int(engine.to_pyarrow(count)["pairs"][0].as_py() or 0))
