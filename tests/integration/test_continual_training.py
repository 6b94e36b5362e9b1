"""Early stopping, what is remembered, gradient checkpointing and distillation, on a tiny encoder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiny_encoder
import training_data

from serm import contracts, relevance, training
from serm import engine as engines
from serm.errors import UserError
from serm.settings import Settings
from serm.training.anchors import draw_anchors
from serm.training.arms import arms
from serm.training.examples import read_known
from serm.training.held_out import chosen
from serm.training.run import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    tiny_encoder.write(path / "encoder")
    training_data.write(path / "validated", queries=80)
    training_data.write(path / "annotated", queries=12, source="panel")
    return path


@pytest.fixture(scope="module")
def settings(data: Path, make_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    def make(**training_settings: Any) -> Settings:
        fast = {"threads": 1, "held_out_share": 0.4, "batch_pairs": 8, "anchors": 0, "controls": ()}
        chosen = fast | training_settings
        return make_settings(relevance={"base": str(data / "encoder"), "layers": 2}, training=chosen)

    return make


@pytest.fixture(scope="module")
def champion(data: Path, settings: Callable[..., Settings]) -> Path:
    training.bootstrap(data / "validated/judgments", data / "validated/documents", data / "champion", settings())
    return data / "champion"


def train(data: Path, champion: Path, out: Path, settings: Settings) -> dict[str, Any]:
    judgments = data / "validated" / "judgments"
    training.train(champion, judgments, data / "annotated", data / "validated", out, settings)
    return json.loads((out / "train.json").read_text())


def weights(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


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


@pytest.fixture(scope="module")
def shown(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotate step's output with pairs of users beside the panel's: six documents each of 20 other queries."""
    path = shutil.copytree(data / "annotated", tmp_path_factory.mktemp("shown") / "annotated")
    pairs = contracts.read(data / "validated" / "judgments", contracts.JUDGMENTS).slice(0, 120).to_pylist()
    doubtful = [
        row | {"query": f"was {row['query']}", "source": "shown", "distribution": [0.1, 0.2, 0.3, 0.4]} for row in pairs
    ]
    contracts.write(pa.Table.from_pylist(doubtful, contracts.JUDGMENTS), path / "shown", contracts.JUDGMENTS)
    return path


def test_controls_take_the_challengers_steps_without_its_labels(
    data: Path, shown: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    options = settings(anchors=30, controls=("replay", "self-training"))
    judgments, validated = data / "validated" / "judgments", data / "validated"

    def run(name: str, annotated: Path, options: Settings) -> dict[str, Any]:
        training.train(champion, judgments, annotated, validated, tmp_path / name, options)
        return json.loads((tmp_path / name / "train.json").read_text())

    summary = run("out", shown, options)
    origins = {name: one["pairs"] for name, one in summary["pairs"]["by_origin"].items()}
    assert origins["shown"] == 120
    assert 0 < origins["anchor"] < 30  # the catalogue is English, and German queries have nothing to be anchored on
    assert set(origins) == {"seed", "new", "shown", "anchor"}
    controls = summary["controls"]
    assert {one["steps"]["taken"] for one in controls.values()} == {summary["steps"]["taken"]}
    assert controls["replay"]["pairs"] == origins["seed"] + origins["anchor"] < summary["pairs"]["used"]
    assert controls["self-training"]["pairs"] == summary["pairs"]["used"]
    paths = {name: tmp_path / "out" / "controls" / name for name in controls}
    models = {name: weights(path) for name, path in paths.items()}
    assert len({weights(tmp_path / "out" / "model"), weights(champion), *models.values()}) == 4
    assert {name: relevance.load(path).version for name, path in paths.items()} == {
        name: one["version"] for name, one in controls.items()
    }
    # No label of this cycle moves a control by one bit, and a run without controls gives the same challenger.
    other = shutil.copytree(shown, tmp_path / "other")
    for name in ("judgments", "shown"):
        rows = [
            row | {"grade": 0, "distribution": None}
            for row in contracts.read(other / name, contracts.JUDGMENTS).to_pylist()
        ]
        contracts.write(pa.Table.from_pylist(rows, contracts.JUDGMENTS), other / name, contracts.JUDGMENTS)
    run("wrong", other, options)
    assert {name: weights(tmp_path / "wrong" / "controls" / name) for name in controls} == models
    assert weights(tmp_path / "wrong" / "model") != weights(tmp_path / "out" / "model")


def test_a_run_that_died_at_a_control_goes_on_at_that_control(
    data: Path,
    shown: Path,
    champion: Path,
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = settings(anchors=10, controls=("replay", "self-training"))
    inputs = champion, data / "validated" / "judgments", shown, data / "validated"
    training.train(*inputs, tmp_path / "whole", options)
    step = sys.modules["serm.training.train"]  # the module; the package exports the function of that name
    fine_tune, updates, update = step.fine_tune, list[Any](), Run.update

    def dies(task: Any, options: Any, checkpoints: Any, name: str, steps: int | None) -> Any:
        if name == "self-training":
            raise KeyboardInterrupt
        return fine_tune(task, options, checkpoints, name, steps)

    with monkeypatch.context() as patch:
        patch.setattr(step, "fine_tune", dies)
        with pytest.raises(KeyboardInterrupt):
            training.train(*inputs, tmp_path / "died", options)
    assert not (tmp_path / "died").exists()

    def counts(run: Run, batch: Any) -> None:
        updates.append(batch)
        update(run, batch)

    monkeypatch.setattr(Run, "update", counts)
    training.train(*inputs, tmp_path / "died", options)
    taken = json.loads((tmp_path / "whole" / "train.json").read_text())["steps"]["taken"]
    assert len(updates) == taken  # those of the last control alone
    assert training_data.hashes(tmp_path / "died") == training_data.hashes(tmp_path / "whole")
    assert not (tmp_path / "died.checkpoint").exists()


def test_anchors_are_pairs_that_nobody_judged_near_ones_and_others(
    data: Path, champion: Path, settings: Callable[..., Settings]
) -> None:
    options = settings(anchors=60, anchor_weight=0.5)
    model = relevance.load(champion)
    with engines.connect(options.engine) as engine:
        files = data / "validated" / "judgments", data / "validated" / "documents"
        known = read_known(engine, *files, options.training).examples
        english = known[known.locales == "en"]
        drawn = draw_anchors(engine, model, english[:60], known, files[1], options.training)
        again = draw_anchors(engine, model, english[:60], known, files[1], options.training)
        few = draw_anchors(engine, model, english[:5], known, files[1], options.training)
        none = draw_anchors(engine, model, english, known, files[1], settings(anchors=0).training)
    assert len(few) == 20  # four a judged pair
    assert len(drawn) == 60
    assert len(none) == 0
    assert drawn.texts() == again.texts()
    pairs = set(zip(*drawn.texts(), strict=True))
    assert len(pairs) == 60
    assert pairs.isdisjoint(zip(*known.texts(), strict=True))
    assert set(drawn.queries) == set(english[:60].queries)  # ten queries, six each
    assert set(drawn.weights) == {0.5}
    # Half of each query's are its nearest: the sample, two documents an anchor, is all of this catalogue.
    catalogue = contracts.read(files[1], contracts.DOCUMENTS)["title"].to_pylist()
    for query in set(drawn.queries):
        free = [text for text in catalogue if text not in set(known.documents[known.queries == query])]
        alike = model.encoder.embed([query], "query")[0] @ model.encoder.embed(free, "passage").T
        cosine = dict(zip(free, alike.tolist(), strict=True))
        found = sorted((cosine[text] for text in drawn.documents[drawn.queries == query]), reverse=True)
        np.testing.assert_allclose(found[:3], np.sort(alike)[::-1][:3], atol=1e-4)
    # The challenger and the control that replays learn of them what the champion says, and both learn all of them.
    both = options.training.model_copy(update={"controls": ("replay",)})
    learned, _ = arms(model, english[:60] + drawn, english[:60], english[60:70], both)
    said = model.score(*drawn.texts()).distribution
    for arm in (learned["challenger"].examples, learned["replay"].examples):
        anchored = arm[arm.origins == "anchor"]
        assert anchored.texts() == drawn.texts()
        np.testing.assert_allclose(anchored.distributions, said, atol=1e-3)


def test_anchors_hold_the_model_where_nothing_was_judged(
    data: Path, champion: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Labels that are all wrong move it on other documents of the same queries too; less with anchors."""
    before, moved = relevance.load(champion), {}
    annotated = shutil.copytree(data / "annotated", tmp_path / "annotated")
    rows = [row | {"grade": 0} for row in contracts.read(annotated / "judgments", contracts.JUDGMENTS).to_pylist()]
    contracts.write(pa.Table.from_pylist(rows, contracts.JUDGMENTS), annotated / "judgments", contracts.JUDGMENTS)
    catalogue = contracts.read(data / "validated/documents", contracts.DOCUMENTS)["title"].to_pylist()
    asked = [(row["query"], text) for row in rows[::6] for text in catalogue]
    queries, documents = ([one[side] for one in asked] for side in (0, 1))
    for anchors in (0, 240):
        options = settings(anchors=anchors, epochs=3, learning_rate=1e-3, seed_weight=0)
        out = tmp_path / str(anchors)
        training.train(champion, data / "validated/judgments", annotated, data / "validated", out, options)
        after = relevance.load(out / "model").score(queries, documents).expected
        moved[anchors] = np.abs(after - before.score(queries, documents).expected).mean()
    assert moved[240] < 0.6 * moved[0]


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
    training.distill(teachers, champion, tmp_path / "mined", judgments, validated, again, options)
    # The same bytes again, and pairs of held-out queries have no part in them.
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
