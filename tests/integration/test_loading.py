"""What a model's files may not be: pickles, code, spoilt, of other sizes, made by hand; each is one sentence."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save

from serm import relevance
from serm.errors import UserError
from serm.relevance.bases import load_encoder
from serm.relevance.generative import GenerativeModel
from serm.settings import RelevanceSettings

SETTINGS = RelevanceSettings(max_tokens=16)
PICKLE = pickle.dumps({"weights": [1.0]})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    save(root / "model", root / "base", seed=0)
    return root


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved / "model", tmp_path / "copy")


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model there"):
        relevance.load(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "checkpoint-7/optimizer.pt", "a/b/weights.pkl"])
def test_pickled_weights_are_refused_wherever_they_lie(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(PICKLE)
    with pytest.raises(UserError, match=rf"pickled weights \({name}\), which can run code"):
        relevance.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for load in (relevance.load, lambda path: load_encoder(str(path), SETTINGS)):
        with pytest.raises(UserError, match=rf"pickled weights \({name}\), which can run code"):
            load(tmp_path)


def test_an_index_of_shards_that_names_pickles_is_refused(saved: Path, tmp_path: Path) -> None:
    base = shutil.copytree(saved / "base", tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "pytorch_model.bin"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"pickled weights \(pytorch_model\.bin\)"):
        load_encoder(str(base), SETTINGS)


def test_a_pickle_that_is_called_safetensors_is_refused(saved: Path, tmp_path: Path) -> None:
    base = shutil.copytree(saved / "base", tmp_path / "base")
    (base / "model.safetensors").write_bytes(PICKLE)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(str(base), SETTINGS)


@pytest.mark.parametrize("name", ["base.safetensors", "embeddings.safetensors", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("spoil", ["cut", "flip"])
def test_a_spoilt_file_is_named(model: Path, name: str, spoil: str) -> None:
    data = bytearray((model / name).read_bytes())
    data[-1] ^= 1
    (model / name).write_bytes(data if spoil == "flip" else data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"{name}: cut off or changed.*dvc checkout"):
        relevance.load(model)


def test_weights_of_another_model_are_refused_though_their_hash_is_written_down(model: Path) -> None:
    shutil.copy(model / "embeddings.safetensors", model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    config["sha256"]["model.safetensors"] = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="not this model's weights"):
        relevance.load(model)


def test_a_missing_file_and_another_format_are_named(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "format": 2}))
    with pytest.raises(UserError, match=r"format 2, expected 3; train the model again"):
        relevance.load(model)
    (model / "config.json").write_text(json.dumps({**config, "family": "oracle"}))
    with pytest.raises(UserError, match="family 'oracle', expected cross-encoder"):
        relevance.load(model)
    (model / "config.json").write_text(json.dumps(config))
    (model / "base.safetensors").unlink()
    with pytest.raises(UserError, match=r"base\.safetensors is missing"):
        relevance.load(model)


def _rewrite(model: Path, **changes: object) -> None:
    """Change config.json as somebody would by hand, the files' hashes right."""
    config = json.loads((model / "config.json").read_text())
    for name in config["sha256"]:
        config["sha256"][name] = hashlib.sha256((model / name).read_bytes()).hexdigest()
    (model / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"layers": 3}, "layers is not 1 to the encoder's 2"),
        ({"layers": 0}, "layers is not 1"),
        ({"layers": "two"}, "layers is not 1"),
        ({"max_tokens": 10**6}, "cannot be read as a cross-encoder"),
        ({"max_tokens": None}, "max_tokens is not a number of tokens"),
        ({"batch_tokens": "wide"}, "batch_tokens is not a number of tokens"),
        ({"encoder": None}, "cannot be read as a cross-encoder|expected a JSON object"),
        ({"encoder": {"model_type": "no such"}}, "cannot be read as a cross-encoder"),
        ({"sha256": None}, "sha256 does not name the model's files"),
        ({"sha256": {"../../etc/passwd": "0"}}, "sha256 does not name the model's files"),
        ({"sha256": {}}, "cut off or changed"),
        ({"family": ["cross-encoder"]}, "expected cross-encoder"),
    ],
)
def test_a_config_made_by_hand_is_one_sentence(model: Path, changes: dict[str, object], why: str) -> None:
    _rewrite(model, **changes)
    with pytest.raises(UserError, match=why) as refused:
        relevance.load(model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["layers", "max_tokens", "batch_tokens", "encoder", "sha256", "family", "format"])
def test_a_config_without_a_field_is_one_sentence(model: Path, name: str) -> None:
    config = json.loads((model / "config.json").read_text())
    del config[name]
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        relevance.load(model)


@pytest.mark.parametrize(
    "size",
    [
        {"hidden_size": 10**12},
        {"num_hidden_layers": 10**12},
        {"num_hidden_layers": 1},
        {"intermediate_size": 10**13},
        {"max_position_embeddings": 10**13},
        {"vocab_size": 10**13},
        {"num_attention_heads": 7},
    ],
)
def test_a_config_that_asks_for_other_sizes_gets_no_memory(model: Path, size: dict[str, int]) -> None:
    encoder = json.loads((model / "config.json").read_text())["encoder"]
    _rewrite(model, encoder={**encoder, **size})
    if "vocab_size" in size:  # no business of the layers
        relevance.load(model)
        return
    with pytest.raises(UserError):
        relevance.load(model)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{}", '{"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}', "\udcff"]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_json_made_by_hand_is_one_sentence(model: Path, name: str, text: str) -> None:
    (model / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    if name != "config.json":
        _rewrite(model)
    with pytest.raises(UserError) as refused:
        relevance.load(model)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_at_which_its_library_panics_is_one_sentence(model: Path, saved: Path, tmp_path: Path) -> None:
    base = shutil.copytree(saved / "base", tmp_path / "base")
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "nobody", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    }
    for folder in (model, base):
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": template}))
    _rewrite(model)
    with pytest.raises(UserError, match=r"cannot be read \(PanicException"):
        relevance.load(model)
    with pytest.raises(UserError, match=r"relevance.base .* cannot be "):
        load_encoder(str(base), SETTINGS)


@pytest.mark.parametrize(
    "words",
    [torch.zeros(3, 16).half(), torch.zeros(11, 8).half(), torch.zeros(11).half(), torch.zeros(11, 16, 2).half()],
)
def test_embeddings_of_another_shape_are_one_sentence(model: Path, words: torch.Tensor) -> None:
    save_file({"words": words}, model / "embeddings.safetensors")
    _rewrite(model)
    with pytest.raises(UserError, match=r"tokenizer knows 11 tokens|cannot be read as a cross-encoder"):
        relevance.load(model)
    save_file({"other": words}, model / "embeddings.safetensors")
    _rewrite(model)
    with pytest.raises(UserError, match="cannot be read as a cross-encoder"):
        relevance.load(model)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["base.safetensors", "embeddings.safetensors", "model.safetensors"])
def test_weights_that_are_not_finite_are_refused(model: Path, name: str, value: float) -> None:
    state = load_file(model / name)
    next(iter(state.values())).view(-1)[-1] = value
    save_file(state, model / name)
    _rewrite(model)
    with pytest.raises(UserError, match=rf"{name.replace('.', chr(92) + '.')}: .* not finite"):
        relevance.load(model)


def test_a_base_with_weights_that_are_not_finite_or_missing_is_refused(saved: Path, tmp_path: Path) -> None:
    base = shutil.copytree(saved / "base", tmp_path / "base")
    whole = load_file(base / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    save_file({**whole, name: whole[name] * math.nan}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"{name} holds weights that are not finite"):
        load_encoder(str(base), SETTINGS)
    save_file({key: value for key, value in whole.items() if key != name}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"its weights lack 1 tensors, such as {name}"):
        load_encoder(str(base), SETTINGS)
    (base / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="not safetensors"):
        load_encoder(str(base), SETTINGS)


@pytest.mark.parametrize(
    "size", [{"hidden_size": 10**12}, {"num_hidden_layers": 10**12}, {"vocab_size": 10**13}, {"model_type": 7}, None]
)
def test_a_base_whose_config_is_made_by_hand_is_one_sentence(
    saved: Path, tmp_path: Path, size: dict[str, object] | None
) -> None:
    base = shutil.copytree(saved / "base", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(None if size is None else {**config, **size}))
    with pytest.raises(UserError, match=r"relevance.base .* cannot be loaded") as refused:
        load_encoder(str(base), SETTINGS)
    assert "\n" not in str(refused.value)


def test_a_base_that_reads_fewer_tokens_than_are_asked_for_is_said(saved: Path) -> None:
    with pytest.raises(
        UserError, match=r"reads at most 32 tokens of a text, and relevance.max_tokens is 64; set it to 32"
    ):
        load_encoder(str(saved / "base"), RelevanceSettings(max_tokens=64))


CODE = {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", CODE),
        ("config.json", {"text_config": CODE}),
        ("config.json", {**CODE, "model_type": "evil"}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
        ("generation_config.json", CODE),
        ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "someone/else"}),
    ],
)
def test_a_base_that_brings_code_is_refused_and_asks_nobody(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, change: dict[str, object]
) -> None:
    marker = tmp_path / "ran"

    def asked(*_: object) -> str:
        marker.touch()
        return "y"

    monkeypatch.setattr("builtins.input", asked)
    base = shutil.copytree(saved / "base", tmp_path / "base")
    (base / "evil.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\nclass Evil: pass\n")
    config = json.loads((base / file).read_text()) if (base / file).is_file() else {}
    (base / file).write_text(json.dumps({**config, **change}))
    for load in (load_encoder, GenerativeModel.from_base):
        with pytest.raises(UserError, match=r"never runs a model repository's code|an adapter, whose config names"):
            load(str(base), SETTINGS)
    assert not marker.exists()


def test_a_saved_model_that_brings_code_is_refused(model: Path) -> None:
    encoder = json.loads((model / "config.json").read_text())["encoder"]
    _rewrite(model, encoder={**encoder, **CODE})
    with pytest.raises(UserError, match="never runs a model repository's code"):
        relevance.load(model)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda batch: batch["expected"].__setitem__(2, batch["expected"][2] + 0.2), r"scored up to 0\.[12]\d apart"),
        (lambda batch: batch["expected"].__setitem__(2, float("nan")), "scored up to nan apart"),
        (lambda batch: batch["expected"].pop(), "golden is no batch"),
        (lambda batch: batch["queries"].__setitem__(0, 7), "golden is no batch"),
        (lambda batch: batch.clear(), "golden is no batch"),
    ],
)
def test_a_model_that_does_not_score_its_golden_batch_as_when_it_was_saved_is_refused(
    model: Path, change: Callable[[dict[str, list[object]]], None], why: str
) -> None:
    golden = json.loads((model / "config.json").read_text())["golden"]
    relevance.load_scorer(model)
    change(golden)
    _rewrite(model, golden=golden)
    with pytest.raises(UserError, match=why):
        relevance.load_scorer(model)
