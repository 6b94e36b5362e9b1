"""Which judgments a training run gets: text joined, whole queries held out, the budget kept, panel labels lighter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from serm import contracts
from serm import engine as engines
from serm.errors import UserError
from serm.settings import EngineSettings, TrainingSettings
from serm.training import examples
from serm.training.examples import Examples, Known, choose
from serm.training.held_out import HeldOut

Origin = Literal["new", "shown"] | None


def known(judgments: Path, documents: Path, options: TrainingSettings, origin: Origin = None) -> Known:
    with engines.connect(EngineSettings()) as engine:
        return examples.read_known(engine, judgments, documents, options, origin)


def read(judgments: Path, documents: Path, options: TrainingSettings, origin: Origin = None) -> Examples:
    return known(judgments, documents, options, origin).examples


@pytest.fixture
def write(tmp_path: Path, make_documents: Callable[[], pa.Table]) -> Callable[..., tuple[Path, Path]]:
    """Write a catalogue and judgments of ``count`` queries with two documents each; return both paths."""
    contracts.write(make_documents(), tmp_path / "documents", contracts.DOCUMENTS)

    def make(name: str, count: int, source: str = "seed", agreement: float | None = None) -> tuple[Path, Path]:
        rows = range(2 * count)
        columns = {
            "query": [f"{name} {n // 2}" for n in rows],
            "locale": ["de"] * len(rows),
            "doc_id": [f"d{n % 60}" for n in rows],
            "grade": [n % 4 for n in rows],
            "rationale": pa.nulls(len(rows), pa.string()),
            "source": [source] * len(rows),
            "cycle": [1] * len(rows),
            "panel_version": pa.nulls(len(rows), pa.string()),
            "agreement": pa.array([agreement] * len(rows), pa.float64()),
        }
        contracts.write(pa.table(columns), tmp_path / name, contracts.JUDGMENTS)
        return tmp_path / name, tmp_path / "documents"

    return make


def test_judgments_get_their_documents_text_and_the_panel_weighs_less(write: Callable[..., tuple[Path, Path]]) -> None:
    options = TrainingSettings(panel_weight=0.5)
    seed = read(*write("seed", 3), options)
    panel = read(*write("panel", 3, "panel", agreement=0.8), options)
    assert seed.documents.tolist() == [f"title {n}" for n in range(6)]
    assert seed.grades.tolist() == [0, 1, 2, 3, 0, 1]
    assert seed.weights.tolist() == [1] * 6
    np.testing.assert_allclose(panel.weights, 0.4)


def test_judgments_of_documents_that_are_gone_are_retired(
    write: Callable[..., tuple[Path, Path]], make_documents: Callable[[], pa.Table]
) -> None:
    judgments, documents = write("seed", 3)
    contracts.write(make_documents().slice(3), documents, contracts.DOCUMENTS)
    found = known(judgments, documents, TrainingSettings())
    assert found.retired == 3
    assert found.examples.documents.tolist() == ["title 3", "title 4", "title 5"]
    assert found.retired_seeds == {("de", "seed 0"), ("de", "seed 1")}


def test_a_catalogue_that_has_none_of_the_judged_documents_is_named(
    write: Callable[..., tuple[Path, Path]], make_documents: Callable[[], pa.Table]
) -> None:
    judgments, documents = write("seed", 3)
    contracts.write(make_documents().slice(6), documents, contracts.DOCUMENTS)
    with pytest.raises(
        UserError, match=r"seed: none of the documents of its 6 pairs is in .*documents, such as .*'d0'"
    ):
        read(judgments, documents, TrainingSettings())


def test_held_out_are_whole_seed_queries_and_stay_so(write: Callable[..., tuple[Path, Path]]) -> None:
    options = TrainingSettings()
    seed, panel = known(*write("seed", 400), options), known(*write("panel", 400, "panel", 1.0), options)
    held_out = HeldOut.of(seed, 0.1)
    queries = {query for _, query in held_out.queries}
    assert 0.05 < len(queries) / 400 < 0.15
    parts = [set(part.queries) for part in (held_out.calibrating, held_out.remembering)]
    assert all(parts)
    assert set.union(*parts) == queries
    assert not set.intersection(*parts)
    assert set(held_out.without(seed.examples).queries) == set(seed.examples.queries) - queries
    assert not HeldOut.of(panel, 0.5).queries  # nobody's seed
    # More judgments around them do not move the line between the two.
    more = Known(seed.examples + panel.examples, 0, frozenset())
    assert HeldOut.of(more, 0.1).queries == held_out.queries
    assert len(HeldOut.of(more, 0.1).calibrating) == len(held_out.calibrating)


def test_a_held_out_query_whose_seed_judgments_are_retired_stays_held_out(
    write: Callable[..., tuple[Path, Path]], make_documents: Callable[[], pa.Table]
) -> None:
    judgments, documents = write("seed", 30)
    everything = HeldOut.of(known(judgments, documents, TrainingSettings()), 0.5).queries
    contracts.write(make_documents().slice(40), documents, contracts.DOCUMENTS)
    assert HeldOut.of(known(judgments, documents, TrainingSettings()), 0.5).queries == everything


def test_the_new_pairs_come_first_and_earlier_ones_fill_the_budget(write: Callable[..., tuple[Path, Path]]) -> None:
    options = TrainingSettings(max_pairs=100)
    earlier, new = read(*write("seed", 90), options), read(*write("panel", 20, "panel", 1.0), options)
    none = new[:0]
    chosen = choose(earlier, new, none, options)
    assert chosen.by_source() == {"panel": 40, "seed": 60}
    assert chosen.queries.tolist() == choose(earlier, new, none, options).queries.tolist()
    assert choose(earlier, new, none, TrainingSettings(max_pairs=30)).by_source() == {"panel": 30}
    assert len(choose(earlier, new, none, TrainingSettings(max_pairs=1000))) == len(earlier) + len(new)


def _pairs(examples: Examples) -> dict[str, float]:
    return {name: of["pairs"] for name, of in examples.by_origin().items()}


def test_seed_judgments_are_not_crowded_out_by_those_of_earlier_windows(
    write: Callable[..., tuple[Path, Path]],
) -> None:
    options = TrainingSettings(max_pairs=100)
    seed, new = read(*write("seed", 90), options), read(*write("panel", 5, "panel", 1.0), options, "new")
    earlier = read(*write("earlier", 400, "panel", 1.0), options)
    shown = read(*write("shown", 400, "shown"), options, "shown")
    chosen = choose(earlier + seed, new, shown, options)
    assert _pairs(chosen) == {"new": 10, "shown": 30, "earlier": 30, "seed": 30}
    few = choose(earlier + seed, new, shown[:10], options)
    assert _pairs(few) == {"new": 10, "shown": 10, "earlier": 40, "seed": 40}


def test_shown_pairs_and_earlier_ones_share_what_the_new_ones_leave_and_come_as_whole_queries(
    write: Callable[..., tuple[Path, Path]],
) -> None:
    options = TrainingSettings(max_pairs=100)
    earlier, new = read(*write("seed", 90), options), read(*write("panel", 10, "panel", 1.0), options, "new")
    shown = read(*write("shown", 200, "shown"), options, "shown")
    chosen = choose(earlier, new, shown, options)
    assert _pairs(chosen) == {"new": 20, "shown": 40, "seed": 40}
    _, counts = np.unique(chosen.queries.astype(str), return_counts=True)
    assert (counts == 2).all()
    # What one half does not need the other has.
    few = choose(earlier, new, shown[:10], options).by_origin()
    assert (few["shown"]["pairs"], few["seed"]["pairs"]) == (10, 70)
    lone = choose(earlier[:10], new, shown, options).by_origin()
    assert (lone["shown"]["pairs"], lone["seed"]["pairs"]) == (70, 10)


def test_a_judges_distribution_is_learned_and_a_lone_grade_is_certain(
    write: Callable[..., tuple[Path, Path]],
) -> None:
    judgments, documents = write("panel", 2, "panel", agreement=0.5)
    table = contracts.read(judgments, contracts.JUDGMENTS)
    given = pa.array([None, [0.1, 0.6, 0.3, 0.0], None, [0.0, 0.0, 0.5, 0.5]], pa.list_(pa.float64()))
    place = table.column_names.index("distribution")
    contracts.write(table.set_column(place, "distribution", given), judgments, contracts.JUDGMENTS)
    read_back = read(judgments, documents, TrainingSettings(panel_weight=0.8))
    assert read_back.distributions.tolist() == [[1, 0, 0, 0], [0.1, 0.6, 0.3, 0], [0, 0, 1, 0], [0, 0, 0.5, 0.5]]
    # A distribution says how sure the panel is; the agreement does not say it twice.
    np.testing.assert_allclose(read_back.weights, [0.4, 0.8, 0.4, 0.8])


def test_each_origin_has_its_stated_weight_and_none_leaves_it_out(write: Callable[..., tuple[Path, Path]]) -> None:
    options = TrainingSettings(panel_weight=0.5, new_weight=2.0, earlier_weight=0.5, seed_weight=0.0)
    seed = read(*write("seed", 5), options)
    earlier = read(*write("earlier", 5, "panel", 1.0), options)
    new = read(*write("new", 5, "panel", 0.8), options, "new")
    shown = read(*write("shown", 5, "shown"), TrainingSettings(shown_weight=0), "shown")
    chosen = choose(seed + earlier, new, shown, options)
    assert chosen.by_origin() == {
        "earlier": {"pairs": 10, "weight_share": pytest.approx(0.25 / 1.05, abs=1e-4)},
        "new": {"pairs": 10, "weight_share": pytest.approx(0.8 / 1.05, abs=1e-4)},
    }
    np.testing.assert_allclose(chosen.weights, [0.5 * 0.8 * 2.0] * 10 + [0.5 * 0.5] * 10)
