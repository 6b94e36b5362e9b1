"""The panel with the real encoder, on a small slice of the emoji world."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from serm import contracts
from serm.judging import annotate
from serm.settings import ClickSettings, CycleSettings, JudgingSettings, Settings
from serm.worlds import pools
from serm.worlds.emoji import EmojiWorld

pytestmark = pytest.mark.model
LOCALES = ("de", "en")


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Settings]:
    """Calibrate on some 150 seed judgments, annotate 36 pairs of other queries, twice; an eighth of the catalogue."""
    path = tmp_path_factory.mktemp("panel")
    world = EmojiWorld(seed_queries=90, test_queries=8)
    pools.prepare(path, 0, world, pools.LETTERS)
    knowledge = contracts.read(path / "knowledge", contracts.KNOWLEDGE)
    few = knowledge.take(pa.array(range(0, len(knowledge), 5)))
    contracts.write(few, path / "few", contracts.KNOWLEDGE)
    documents = contracts.read(path / "documents", contracts.DOCUMENTS)
    contracts.write(one_search(documents), path / "mined" / "click_estimates", contracts.CLICK_ESTIMATES)
    seed = contracts.read(path / "state" / "judgments", contracts.JUDGMENTS)
    live = world.live_queries(0, "train")
    others = live[np.isin(world.truth.locales[live], LOCALES)][::150][:6]
    mined = pools.judged(world, others, 0, 6, "mined", pools.LETTERS).select(["query", "locale", "doc_id"])
    zeros = pa.array(np.zeros(len(mined)))
    for name in ("score", "uncertainty", "disagreement", "engagement", "novelty", "priority"):
        mined = mined.append_column(name, zeros)
    here = documents.filter(pc.is_in(documents["locale"], pa.array(LOCALES)))
    named = pa.concat_arrays(
        [one["doc_id"].combine_chunks() for one in (seed, mined, here.take(list(range(0, len(here), 8))))]
    )
    here = here.filter(pc.is_in(here["doc_id"], named))
    contracts.write(here, path / "validated" / "documents", contracts.DOCUMENTS)
    agents = pa.array([[]] * len(mined), contracts.MINED_PAIRS.field("agents").type)
    contracts.write(mined.append_column("agents", agents), path / "mined" / "pairs", contracts.MINED_PAIRS)
    contracts.write(seed.filter(pc.is_in(seed["locale"], pa.array(LOCALES))), path / "judgments", contracts.JUDGMENTS)
    window = CycleSettings(start=datetime(2017, 1, 1, tzinfo=UTC), end=datetime(2019, 1, 1, tzinfo=UTC))
    settings = Settings(cycle=window, judging=JudgingSettings(calibration_pairs=150, paths=3))
    for out in ("first", "second"):
        annotate(path / "mined", path / "validated", path / "judgments", path / "few", path / out, settings)
    return path / "first", path / "second", settings


def one_search(documents: pa.Table) -> pa.Table:
    """What users did who saw too little to say anything."""
    counts = {"impressions": 1, "clicks": 1, "satisfied": 0, "disliked": 0}
    counts |= {"examined": 1.0, "dwells": 1, "log_dwell": 1.0, "tested": False}
    fitted = dict.fromkeys(("attractiveness", "standard_error", "relevance", "relevance_error"), 0.5)
    seen = documents.select(["doc_id", "locale"]).slice(0, 1).to_pylist()[0]
    row = {"query": "one", **seen, **counts, **fitted, "settings": ClickSettings().model_dump_json()}
    return pa.Table.from_pylist([row], contracts.CLICK_ESTIMATES)


def test_two_runs_give_the_same_bytes(annotated: tuple[Path, Path, Settings]) -> None:
    first, second, _ = annotated
    files = sorted(str(file.relative_to(first)) for file in first.rglob("*.*"))
    assert files == sorted(str(file.relative_to(second)) for file in second.rglob("*.*"))
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_judges_know_more_than_chance(annotated: tuple[Path, Path, Settings]) -> None:
    summary = json.loads((annotated[0] / "annotate.json").read_text())
    assert set(summary["judges"]) == {"lexical", "encoder", "outside knowledge"}
    assert all(judge["quadratic_kappa"] > 0.1 for judge in summary["judges"].values())
    assert summary["panels"]["all judges"]["dawid-skene"]["keep_rate"] > 0


def test_outside_knowledge_speaks_across_languages(annotated: tuple[Path, Path, Settings]) -> None:
    votes = contracts.read(annotated[0] / "votes", contracts.VOTES)
    outside = votes.filter(pc.and_(pc.equal(votes["judge"], "outside knowledge"), pc.equal(votes["locale"], "de")))
    assert outside.num_rows
    assert all("outside knowledge says" in said for said in outside["rationale"].to_pylist())
