"""Exports to ONNX and OpenVINO of a tiny model: checked against it, refused, served by the predictor."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save, save_base

from serm import contracts, relevance
from serm.errors import UserError
from serm.pairs import test_sets
from serm.release import export as exporting
from serm.relevance import export as quantising
from serm.relevance.export import Precision, Runtime
from serm.relevance.exported import GRAPHS
from serm.relevance.known import KnownTexts
from serm.serving.server import running
from serm.settings import RelevanceSettings

openvino = pytest.importorskip("openvino", reason="pip install 'serm[export]'")
NOUNS = ["cat", "dog", "heart", "face", "red", "grinning", "cat face", "red heart", "grinning dog face"]
QUERIES, DOCUMENTS = (list(column) for column in zip(*product(NOUNS, NOUNS), strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, the catalogue, test sets and mined pairs."""
    path = tmp_path_factory.mktemp("world")
    save(path / "model", path / "base", seed=1)
    documents = [
        {"doc_id": noun, "locale": "en", "title": noun, "body": "", "published_at": 0, "attributes": []}
        for noun in NOUNS
    ]
    contracts.write(pa.Table.from_pylist(documents, contracts.DOCUMENTS), path / "documents", contracts.DOCUMENTS)
    judged = [
        {"query": query, "locale": "en", "doc_id": document, "grade": len({*query.split()} & {*document.split()})}
        | {"rationale": None, "source": "seed", "cycle": 0, "panel_version": None, "agreement": None}
        for query, document in zip(QUERIES, DOCUMENTS, strict=True)
    ]
    for dataset in test_sets.datasets(path).values():
        contracts.write(pa.Table.from_pylist(judged, contracts.JUDGMENTS), dataset, contracts.JUDGMENTS)
    numbers = ("score", "uncertainty", "disagreement", "engagement", "novelty", "priority")
    mined = [{**row, "agents": [], **dict.fromkeys(numbers, 0.0)} for row in judged]
    table = pa.Table.from_pylist(mined, contracts.MINED_PAIRS)
    contracts.write(table, path / "pairs", contracts.MINED_PAIRS)
    return path


def export(world: Path, out: Path, runtime: Runtime, precision: Precision) -> dict[str, object]:
    return dict(exporting.export(world / "model", world, world, world, out, runtime, precision))


@pytest.fixture(scope="module")
def exports(world: Path) -> dict[str, Path]:
    """ONNX in fp32; OpenVINO in int8, which sixteen random dimensions bear less than a real model; int8 weights."""
    with warnings.catch_warnings(record=True) as warned, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(logging.Logger, "callHandlers", lambda logger, record: warned.append(record.getMessage()))
        onnx = export(world, world / "onnx", "onnx", "fp32")
    assert [told for told in map(str, warned) if "torch" in told] == []  # its exporter's words say nothing to a user
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "MAX_DIFFERENCE", 0.5)
        int8 = export(world, world / "openvino", "openvino", "int8")
    weights = export(world, world / "weights", "openvino", "int8-weights")
    for figures, least in ((onnx, 0.997), (int8, 0.9), (weights, 0.997)):
        assert figures["pairs"] == 4 * len(QUERIES)
        assert float(str(figures["rank_correlation"])) >= least
    assert abs(float(str(onnx["ndcg_10_difference"]))) <= 0.003
    return {"onnx": world / "onnx", "openvino": world / "openvino", "weights": world / "weights"}


def test_int8_quantises_weights_and_activations_and_int8_weights_only_weights(exports: dict[str, Path]) -> None:
    graphs = {
        name: "".join((exports[name] / f"{part}.xml").read_text() for part in GRAPHS)
        for name in ("openvino", "weights")
    }
    assert 'type="FakeQuantize"' in graphs["openvino"]
    assert 'type="FakeQuantize"' not in graphs["weights"]
    for graph in graphs.values():
        assert graph.count('element_type="i8"') >= 2 * 6  # two layers; the joint one's are the upper one's, untrained
    assert "nncf_smooth_quant" in graphs["openvino"]


def test_neither_openvino_nor_nncf_sends_home_what_is_used(exports: dict[str, Path], tmp_path: Path) -> None:
    """OpenVINO sends an event as it is imported, and makes an id for its user, unless it is kept from it."""
    code = (
        "import sys; from serm import relevance; from serm.relevance import export;"
        f"relevance.load_scorer({str(exports['openvino'])!r}).score(['cat'], ['dog']); import nncf;"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert not (tmp_path / "intel").exists()


def test_int8_pairs_quantises_only_what_reads_query_and_document_together(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exports["onnx"], tmp_path / "pairs")
    for name in GRAPHS:
        openvino.save_model(openvino.Core().read_model(folder / f"{name}.onnx"), folder / f"{name}.xml")
    config = {**json.loads((folder / "config.json").read_text()), "runtime": "openvino"}
    quantising._quantise(folder, config, quantising.CALIBRATED["int8-pairs"], QUERIES, DOCUMENTS)
    graphs = {name: (folder / f"{name}.xml").read_text() for name in GRAPHS}
    assert 'type="FakeQuantize"' in graphs["pairs"]
    assert 'type="FakeQuantize"' not in graphs["texts"]
    before = relevance.load_scorer(exports["onnx"]).score(QUERIES, DOCUMENTS).expected
    np.testing.assert_allclose(quantising.opened(folder, config).score(QUERIES, DOCUMENTS).expected, before, atol=0.5)


def test_attention_of_an_export_searches_no_row_for_nan(exports: dict[str, Path]) -> None:
    import onnx

    for name in ("texts", "pairs"):
        kinds = {node.op_type for node in onnx.load(exports["onnx"] / f"{name}.onnx").graph.node}
        assert "Softmax" in kinds
        assert "IsNaN" not in kinds


@pytest.mark.parametrize(("runtime", "near"), [("onnx", 0.02), ("openvino", 0.5), ("weights", 0.05)])
def test_an_export_scores_as_the_trained_model_does(
    world: Path, exports: dict[str, Path], runtime: str, near: float
) -> None:
    trained, exported = relevance.load(world / "model"), relevance.load_scorer(exports[runtime])
    before, after = trained.score(QUERIES, DOCUMENTS), exported.score(QUERIES, DOCUMENTS)
    np.testing.assert_allclose(after.expected, before.expected, atol=near)  # the trained one computes in bf16
    np.testing.assert_allclose(after.distribution, before.distribution, atol=near)
    np.testing.assert_allclose(after.distribution.sum(1), 1)
    alone = [exported.score([q], [d]).expected[0] for q, d in zip(QUERIES[:9], DOCUMENTS[:9], strict=True)]
    np.testing.assert_allclose(alone, after.expected[:9], atol=1e-4)
    assert exported.score([], []).distribution.shape == (0, 4)
    assert json.loads((exports[runtime] / "config.json").read_text())["model"] == trained.version != exported.version


def test_an_export_of_robertas_kin_counts_places_from_behind_the_paddings(tmp_path: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    save_base(tmp_path / "base")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=11, max_position_embeddings=34, pad_token_id=1, **size)
    body = XLMRobertaModel(config)
    torch.nn.init.normal_(body.embeddings.position_embeddings.weight)  # so that a wrong place shows
    body.save_pretrained(tmp_path / "base")
    encoder = relevance.load_encoder(str(tmp_path / "base"), RelevanceSettings(max_tokens=16))
    model = relevance.RelevanceModel.from_encoder(encoder, layers=1)
    torch.nn.init.normal_(model.residual.head.weight)
    torch.nn.init.zeros_(model.residual.alpha)  # such texts are all near each other
    (tmp_path / "out").mkdir()
    exported = quantising.opened(tmp_path / "out", quantising.write(model, tmp_path / "out", "onnx", "fp32", ([], [])))
    before = model.score(QUERIES, DOCUMENTS).expected
    assert before.std() > 0.1
    np.testing.assert_allclose(exported.score(QUERIES, DOCUMENTS).expected, before, atol=0.02)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_export_computes_a_known_text_once_and_scores_it_as_before(
    exports: dict[str, Path], runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = relevance.load_scorer(exports[runtime])
    before = model.score(QUERIES, DOCUMENTS).expected
    computed: list[int] = []
    run = model._run_texts  # type: ignore[attr-defined]

    def counting(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        computed.append(len(inputs["mask"]))
        return list(run(inputs))

    monkeypatch.setattr(model, "_run_texts", counting)
    model.known = KnownTexts(1_000_000)
    for part in (slice(0, 30), slice(10, len(QUERIES)), slice(0, len(QUERIES))):
        pairs = model.read(QUERIES[part], DOCUMENTS[part])
        np.testing.assert_allclose(model.score_read(pairs).expected, before[part], atol=1e-4)
    assert sum(computed) == 2 * len(NOUNS)  # each as a query and as a document
    assert model.known.hits > 0
    assert model.known.bytes > 0


def test_an_export_that_ranks_otherwise_is_refused_and_leaves_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MAX_DIFFERENCE", 0.0)
    with pytest.raises(
        UserError, match=r"Not exported: on 324 test pairs the rank correlation .* is [01]\.\d+ .*NDCG@10 goes"
    ):
        export(world, tmp_path / "out", "openvino", "int8-weights")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said(world: Path, exports: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="int8 is exported for OpenVINO"):
        export(world, tmp_path / "out", "onnx", "int8")
    with pytest.raises(UserError, match="family 'exported', expected cross-encoder or generative"):
        relevance.load(exports["onnx"])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("no tests", "no Parquet files there"),
        ("another catalogue", "none of the documents of its"),
        ("no mined pairs", "no Parquet files there"),
        ("no model", "no model there|no config.json"),
        ("out", "cannot be written"),
    ],
)
def test_what_can_be_known_at_once_is_said_before_the_work(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str, why: str
) -> None:
    copy = shutil.copytree(world, tmp_path / "world", ignore=shutil.ignore_patterns("onnx", "openvino", "weights"))
    worked: list[str] = []
    monkeypatch.setattr(exporting, "write", lambda *_: worked.append("exported"))
    if spoil == "another catalogue":
        (file,) = (copy / "documents").iterdir()
        table = pq.read_table(file)
        pq.write_table(table.set_column(0, "doc_id", pa.array([f"new {n}" for n in range(len(table))])), file)
    elif spoil == "out":
        (tmp_path / "out").write_text("a file where a directory is wanted")
    else:
        shutil.rmtree(copy / {"no tests": "rolling/pool", "no mined pairs": "pairs", "no model": "model"}[spoil])
    with pytest.raises(UserError, match=why):
        export(copy, tmp_path / "out" / "export", "openvino", "int8")
    assert not worked
    assert not (tmp_path / "out" / "export").exists()


def test_a_missing_package_is_said_before_the_work(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "nncf" else find_spec(name))
    monkeypatch.setattr(exporting, "load", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        export(world, tmp_path / "out", "openvino", "int8")
    assert missing.value.name == "nncf"


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": math.nan},
        {"temperature": None},
        {"thresholds": [1, 0]},
        {"thresholds": [3.0, 2.0, 1.0]},
        {"max_tokens": "many"},
        {"batch_tokens": -1},
        {"runtime": ["onnx"]},
        {"graph": None},
    ],
)
def test_an_export_whose_config_is_made_by_hand_is_one_sentence(
    exports: dict[str, Path], tmp_path: Path, change: dict[str, object]
) -> None:
    copy = shutil.copytree(exports["onnx"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError) as refused:
        relevance.load_scorer(copy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("spoil", ["nan", "shape", "dtype", "garbage", "graph", "tokenizer"])
def test_an_export_whose_files_are_made_by_hand_is_one_sentence(
    exports: dict[str, Path], tmp_path: Path, spoil: str
) -> None:
    copy = shutil.copytree(exports["onnx"], tmp_path / "copy")
    words = load_file(copy / "embeddings.safetensors")["words"]
    made = {"nan": words * math.nan, "shape": words[:, :3].contiguous(), "dtype": words.float()}
    if spoil in made:
        save_file({"words": made[spoil]}, copy / "embeddings.safetensors")
    elif spoil == "garbage":
        (copy / "embeddings.safetensors").write_bytes(b"\xff" * 1000)
    else:
        (copy / {"graph": "pairs.onnx", "tokenizer": "tokenizer.json"}[spoil]).write_bytes(b"{}")
    config = json.loads((copy / "config.json").read_text())
    config["sha256"] = {name: hashlib.sha256((copy / name).read_bytes()).hexdigest() for name in config["sha256"]}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as refused:
        relevance.load_scorer(copy)
    assert "\n" not in str(refused.value)


def test_exports_are_served_without_torch(world: Path, exports: dict[str, Path]) -> None:
    pairs = [{"query": query, "document": document} for query, document in zip(QUERIES, DOCUMENTS, strict=True)]
    with running({"trained": world / "model", **exports}) as ready:
        client = ready()
        for name, path in exports.items():
            answer = client.post(f"/v1/models/{name}:predict", json={"instances": pairs}).json()
            model = relevance.load_scorer(path)
            assert answer["model_version"] == model.version
            scores = model.score(QUERIES, DOCUMENTS).expected
            assert [one["score"] for one in answer["predictions"]] == pytest.approx(scores, abs=1e-5)
    code = "import sys; from serm import relevance; relevance.load_scorer(sys.argv[1]).score(['cat'], ['dog'])"
    check = "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code + check, str(exports["onnx"])], check=False).returncode == 0


def test_a_spoilt_export_is_refused(exports: dict[str, Path]) -> None:
    graph = exports["onnx"] / "texts.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"texts\.onnx: cut off or changed"):
        relevance.load_scorer(exports["onnx"])
    graph.write_bytes(whole)
