"""Which judgments a training run gets: text joined, seed queries held out, the budget kept, panel labels lighter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from serm import contracts
from serm.errors import UserError
from serm.settings import TrainingSettings
from serm.training.examples import choose, held_out, read
from serm.training.fit import listwise_loss


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


def test_a_document_that_is_not_in_the_catalogue_is_named(
    write: Callable[..., tuple[Path, Path]], make_documents: Callable[[], pa.Table]
) -> None:
    judgments, documents = write("seed", 3)
    contracts.write(make_documents().slice(2), documents, contracts.DOCUMENTS)
    with pytest.raises(UserError, match=r"2 judged documents are not in .*'d0'"):
        read(judgments, documents, TrainingSettings())


def test_held_out_are_whole_seed_queries_and_stay_so(write: Callable[..., tuple[Path, Path]]) -> None:
    options = TrainingSettings()
    seed, panel = read(*write("seed", 400), options), read(*write("panel", 400, "panel", 1.0), options)
    rows = held_out(seed, 0.1)
    assert 0.05 < rows.mean() < 0.15
    assert not set(seed.queries[rows]) & set(seed.queries[~rows])
    assert not held_out(panel, 0.5).any()
    # More judgments around them do not move the line between the two.
    assert held_out(seed + panel, 0.1)[: len(seed)].tolist() == rows.tolist()


def test_the_new_pairs_come_first_and_earlier_ones_fill_the_budget(write: Callable[..., tuple[Path, Path]]) -> None:
    options = TrainingSettings(max_pairs=100)
    earlier, new = read(*write("seed", 90), options), read(*write("panel", 20, "panel", 1.0), options)
    chosen = choose(earlier, new, options)
    assert chosen.by_source() == {"panel": 40, "seed": 60}
    assert chosen.queries.tolist() == choose(earlier, new, options).queries.tolist()
    assert choose(earlier, new, TrainingSettings(max_pairs=30)).by_source() == {"panel": 30}
    assert len(choose(earlier, new, TrainingSettings(max_pairs=1000))) == len(earlier) + len(new)


def test_the_listwise_loss_is_the_cross_entropy_of_each_querys_gains() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, 5.0])
    grades, groups = torch.tensor([1, 0, 2, 0]), torch.tensor([0, 0, 0, 1])
    # Query 0: gains 1, 0, 3; query 1 has no gain and does not count.
    expected = -torch.log_softmax(scores[:3], 0) @ torch.tensor([0.25, 0.0, 0.75])
    loss = listwise_loss(scores, grades, torch.ones(4), groups)
    assert loss.item() == pytest.approx(expected.item())
    # A lighter label pulls less: with weight 1/3 on the grade 2 both gains are 1.
    lighter = listwise_loss(scores, grades, torch.tensor([1, 1, 1 / 3, 1]), groups)
    expected = -torch.log_softmax(scores[:3], 0) @ torch.tensor([0.5, 0.0, 0.5])
    assert lighter.item() == pytest.approx(expected.item())
    assert listwise_loss(scores, torch.zeros(4, dtype=torch.long), torch.ones(4), groups).item() == 0
