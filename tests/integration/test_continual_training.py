"""Early stopping, what is remembered, gradient checkpointing and distillation, on a tiny encoder."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import training_data
from continual import Continual, train, weights
from safetensors.numpy import load_file

from serm import contracts, relevance, training
from serm.errors import UserError
from serm.settings import Settings
from serm.training.held_out import chosen


@pytest.fixture
def data(continual: Continual) -> Path:
    return continual.data


@pytest.fixture
def champion(continual: Continual) -> Path:
    return continual.champion


@pytest.fixture
def settings(continual: Continual) -> Callable[..., Settings]:
    return continual.settings


def test_what_is_remembered_is_told_by_locale(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    memory = train(data, champion, tmp_path / "out", settings())["held_out_seed"]
    assert set(memory["by_locale"]) == {"de", "en"}
    for count in ("pairs", "queries"):
        assert memory[count] == sum(one[count] for one in memory["by_locale"].values()) > 0
    for model in ("champion", "challenger"):
        pooled = sum(one["pairs"] * one[model]["loss"] for one in memory["by_locale"].values()) / memory["pairs"]
        assert memory[model]["loss"] == pytest.approx(pooled, abs=2e-4)
    difference = memory["ndcg_10_difference"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    gain = memory["challenger"]["ndcg_10"] - memory["champion"]["ndcg_10"]
    assert difference["mean"] == pytest.approx(gain, abs=2e-4)


def test_a_challengers_weights_go_back_towards_the_champions_in_a_straight_line(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    for share in (0.0, 0.25):
        train(data, champion, tmp_path / str(share), settings(champion_share=share, learning_rate=1e-3))
    before, ended, moved = (
        load_file(path / "model.safetensors")
        for path in (champion, tmp_path / "0.0" / "model", tmp_path / "0.25" / "model")
    )
    for name in set(before) - {"ordinal.temperature"}:  # fitted at the end
        np.testing.assert_allclose(moved[name], 0.75 * ended[name] + 0.25 * before[name], atol=1e-5, err_msg=name)
    assert not np.allclose(ended["layers.0.output.dense.weight"], before["layers.0.output.dense.weight"], atol=1e-4)
    # A first champion has none to go back to.
    judgments, documents = data / "validated" / "judgments", data / "validated" / "documents"
    training.bootstrap(judgments, documents, tmp_path / "first", settings(champion_share=0.9))
    assert weights(tmp_path / "first") == weights(champion)


RESPELLED = (
    str,
    str.upper,
    lambda query: f" {query.replace(' ', '  ')}\u200b",
    lambda query: query.replace(" ", "\u00a0"),
)


def relabelled(judgments: Path, source: str, grade: int) -> pa.Table:
    """Return the seed judgments as another source might give them: each query in another spelling, another grade."""
    rows = contracts.read(judgments, contracts.JUDGMENTS).to_pylist()
    changed = [
        row | {"query": RESPELLED[n % 4](row["query"]), "grade": grade, "source": source, "cycle": 1}
        for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(changed, contracts.JUDGMENTS)


@pytest.mark.parametrize(("source", "where"), [("panel", "annotated"), ("human", "judgments")])
def test_no_judgment_of_a_held_out_query_is_trained_on_whoever_gave_it_and_however_it_is_spelled(
    source: str, where: str, data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Judgments that are wrong on purpose, of every seed query: of the held-out ones they change no bit."""
    options = settings(patience=9)
    seed = contracts.read(data / "validated" / "judgments", contracts.JUDGMENTS)

    def run(name: str, more: pa.Table) -> dict[str, Any]:
        path = tmp_path / name
        shutil.copytree(data / "validated", path / "validated")
        shutil.copytree(data / "annotated", path / "annotated")
        to = path / ("validated" if where == "judgments" else "annotated") / "judgments"
        contracts.write(pa.concat_tables([contracts.read(to, contracts.JUDGMENTS), more]), to, contracts.JUDGMENTS)
        judgments, out = path / "validated" / "judgments", path / "out"
        training.train(champion, judgments, path / "annotated", path / "validated", out, options)
        return json.loads((out / "train.json").read_text()) | {"weights": weights(out / "model")}

    every = relabelled(data / "validated" / "judgments", source, grade=0)
    everywhere = run("every", every)
    left_out = (
        everywhere["pairs"]["of_held_out_queries"] - run("none", every.slice(0, 0))["pairs"]["of_held_out_queries"]
    )
    held = {query for query, row in zip(every["query"].to_pylist(), seed.to_pylist(), strict=True) if is_held(row)}
    assert left_out == sum(query in held for query in every["query"].to_pylist()) > 0
    others = every.filter(pc.invert(pc.is_in(every["query"], pa.array(sorted(held)))))
    assert others.num_rows < every.num_rows
    without = run("others", others)
    assert {name: everywhere[name] for name in ("weights", "temperature", "held_out_seed", "loss", "steps")} == {
        name: without[name] for name in ("weights", "temperature", "held_out_seed", "loss", "steps")
    }


def is_held(row: dict[str, Any]) -> bool:
    """Whether the settings above hold the seed judgment's query out."""
    return bool(chosen([(row["locale"], row["query"])], 0.4)[0])


def test_a_run_leaves_its_curve_and_where_its_model_comes_from(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    summary = train(data, champion, tmp_path / "one", settings(patience=9))
    train(data, champion, tmp_path / "two", settings(patience=9))
    files = [{f.relative_to(o): f.read_bytes() for f in o.rglob("*") if f.is_file()} for o in tmp_path.iterdir()]
    assert files[0] == files[1]
    metrics = json.loads((tmp_path / "one" / "tracking" / "metrics.json").read_text())
    assert metrics["loss"] == summary["loss"][-1]
    assert metrics["held_out_ndcg_10"] == summary["held_out_seed"]["challenger"]["ndcg_10"]
    curve = (tmp_path / "one/tracking/plots/metrics/loss.tsv").read_text().splitlines()
    assert curve[0].split() == ["step", "loss"]
    assert len(curve) == 1 + len(summary["loss"])
    known = json.loads((tmp_path / "one/model/provenance.json").read_text())
    assert known["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(known["sha256"]) == {"champion", "judgments", "documents", "annotated", "shown"}
    founding = json.loads((champion / "provenance.json").read_text())
    assert founding["sha256"]["judgments"] == known["sha256"]["judgments"]
    assert founding["sha256"]["documents"] != known["sha256"]["annotated"]


def test_a_challenger_takes_as_many_steps_as_are_asked_for(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    assert train(data, champion, tmp_path / "out", settings(steps=7))["steps"]["taken"] == 7


def test_early_stopping_keeps_the_best_weights(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    hot = {"epochs": 4, "learning_rate": 0.01, "head_learning_rate": 0.1}  # so that it gets worse, soon
    watched = settings(**hot, patience=2, watch_steps=4)
    summary = train(data, champion, tmp_path / "out", watched)
    steps, losses = summary["steps"], [loss for _, loss in summary["steps"]["watched"]]
    assert steps["kept"] == steps["watched"][losses.index(min(losses))][0]
    assert losses[-2:] == [loss for loss in losses[-2:] if loss > min(losses)]  # two looks without a better one
    full = train(data, champion, tmp_path / "full", settings(**hot))
    assert steps["taken"] < full["steps"]["taken"]
    assert full["steps"] == {"taken": full["steps"]["taken"], "kept": full["steps"]["taken"], "watched": []}
    assert summary["held_out_seed"]["challenger"]["loss"] < full["held_out_seed"]["challenger"]["loss"]
    assert len(relevance.load(tmp_path / "out" / "model").version) == 12


def test_early_stopping_without_held_out_queries_is_refused(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"patience needs held-out seed queries.*held_out_share"):
        train(data, champion, tmp_path / "out", settings(patience=1, held_out_share=0))


def test_gradient_checkpointing_changes_no_bit(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    train(data, champion, tmp_path / "kept", settings())
    train(data, champion, tmp_path / "again", settings(gradient_checkpointing=True))
    assert weights(tmp_path / "kept" / "model") == weights(tmp_path / "again" / "model")
    assert weights(tmp_path / "kept" / "model") != weights(champion)


def test_the_listwise_loss_is_a_choice(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    made = {
        weights(tmp_path / name / "model")
        for name, chosen in (("net", "listnet"), ("lambda", "lambda"))
        if train(data, champion, tmp_path / name, settings(listwise=chosen))
    }
    assert len(made) == 2


def test_a_student_gives_its_teachers_distributions(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    pool = training_data.write(tmp_path / "pool", queries=80)
    judged = contracts.read(pool / "judgments", contracts.JUDGMENTS)
    numbers = {n: pa.array([0.0] * len(judged)) for n in contracts.MINED_PAIRS.names[4:]}
    mined = pa.table({name: judged[name] for name in ("query", "locale", "doc_id")} | numbers)
    agents = pa.array([[]] * len(judged), contracts.MINED_PAIRS.field("agents").type)
    contracts.write(mined.append_column("agents", agents), tmp_path / "mined" / "pairs", contracts.MINED_PAIRS)
    options = settings(student_layers=1, distillation_epochs=6, learning_rate=5e-3, precision="fp32")
    train(data, champion, tmp_path / "cycle", settings(seed=3, learning_rate=3e-3))
    teachers = [champion, tmp_path / "cycle" / "model"]
    judgments, validated = data / "validated" / "judgments", data / "validated"
    figures = training.distill(teachers, champion, tmp_path / "mined", judgments, validated, tmp_path / "out", options)
    assert figures["divergence"] < 0.5 * figures["divergence_before"]  # on mined queries that it did not learn from

    summary = json.loads((tmp_path / "out" / "distill.json").read_text())
    student = relevance.load(tmp_path / "out" / "model")
    assert summary["challenger"] == student.version
    assert summary["teachers"] == [relevance.load(teacher).version for teacher in teachers]
    np.testing.assert_allclose(student.score(["cat 1"], ["cat dog 3"]).distribution.sum(), 1)
    held = [is_held(row) for row in judged.to_pylist()]
    others = mined.append_column("agents", agents).filter(pa.array([not one for one in held]))
    assert 0 < others.num_rows < mined.num_rows
    contracts.write(others, tmp_path / "mined" / "pairs", contracts.MINED_PAIRS)
    again = tmp_path / "again"
    near = options.model_copy(update={"training": options.training.model_copy(update={"champion_share": 0.9})})
    training.distill(teachers, champion, tmp_path / "mined", judgments, validated, again, near)
    # The same bytes again: pairs of held-out queries have no part in them, and a student goes back to no champion.
    assert weights(again / "model") == weights(tmp_path / "out" / "model")


def test_a_student_must_be_smaller(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    inputs = (tmp_path / "mined", data / "validated/judgments", data / "validated", tmp_path / "out")
    with pytest.raises(UserError, match=r"student_layers is 2.*has 2 joint layers"):
        training.distill([champion], champion, *inputs, settings(student_layers=2))


def test_a_judged_document_that_is_gone_stops_nothing(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    shutil.copytree(data / "validated", tmp_path / "validated")
    catalogue = contracts.read(data / "validated/documents", contracts.DOCUMENTS)
    contracts.write(catalogue.slice(3), tmp_path / "validated/documents", contracts.DOCUMENTS)
    gone = catalogue["doc_id"].slice(0, 3)
    sets = [data / "validated" / "judgments", data / "annotated" / "judgments"]
    lost = sum(pc.sum(pc.is_in(contracts.read(one, contracts.JUDGMENTS)["doc_id"], gone)).as_py() for one in sets)
    inputs = (sets[0], data / "annotated", tmp_path / "validated")
    figures = training.train(champion, *inputs, tmp_path / "out", settings())
    assert figures["retired_judgments"] == lost > 0
    assert json.loads((tmp_path / "out" / "train.json").read_text())["pairs"]["retired"] == lost
    founded = training.bootstrap(sets[0], tmp_path / "validated" / "documents", tmp_path / "first", settings())
    assert 0 < founded["retired_judgments"] < lost


def test_a_catalogue_without_any_judged_document_is_one_sentence(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    catalogue = contracts.read(data / "validated/documents", contracts.DOCUMENTS)
    renamed = [f"new-{doc_id}" for doc_id in catalogue["doc_id"].to_pylist()]
    catalogue = catalogue.set_column(0, contracts.DOCUMENTS.field("doc_id"), pa.array(renamed))
    contracts.write(catalogue, tmp_path / "documents", contracts.DOCUMENTS)
    with pytest.raises(UserError, match=r"none of the documents of its 480 pairs is in .*give the catalogue that"):
        training.train(champion, data / "validated/judgments", data / "annotated", tmp_path, tmp_path / "o", settings())
