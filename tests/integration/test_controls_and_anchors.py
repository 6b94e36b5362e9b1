"""What a cycle's training learns beside the labels: anchors, and the controls that are trained without them."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import training_data
from continual import Continual, weights

from serm import contracts, relevance, training
from serm import engine as engines
from serm.settings import Settings
from serm.training.anchors import draw_anchors
from serm.training.arms import arms
from serm.training.examples import read_known
from serm.training.run import Run


@pytest.fixture
def data(continual: Continual) -> Path:
    return continual.data


@pytest.fixture
def champion(continual: Continual) -> Path:
    return continual.champion


@pytest.fixture
def settings(continual: Continual) -> Callable[..., Settings]:
    return continual.settings


@pytest.fixture(scope="module")
def shown(continual: Continual, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotate step's output with pairs of users beside the panel's: six documents each of 20 other queries."""
    path = shutil.copytree(continual.data / "annotated", tmp_path_factory.mktemp("shown") / "annotated")
    pairs = contracts.read(continual.data / "validated" / "judgments", contracts.JUDGMENTS).slice(0, 120).to_pylist()
    doubtful = [
        row | {"query": f"was {row['query']}", "source": "shown", "distribution": [0.1, 0.2, 0.3, 0.4]} for row in pairs
    ]
    contracts.write(pa.Table.from_pylist(doubtful, contracts.JUDGMENTS), path / "shown", contracts.JUDGMENTS)
    return path


def test_controls_go_over_their_pairs_as_often_as_the_challenger_without_its_labels(
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
    taken = {name: one["steps"]["taken"] for name, one in controls.items()}
    share = controls["replay"]["pairs"] / summary["pairs"]["used"]
    assert taken["self-training"] == summary["steps"]["taken"]
    assert taken["replay"] == math.ceil(share * summary["steps"]["taken"]) < summary["steps"]["taken"]
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
