"""What an encoder keeps on disk: it changes no bit, whatever of it is there, damaged or thrown away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_base

from serm.relevance import Encoder, load_encoder
from serm.relevance.batches import STEADY_TOKENS, steady_batches
from serm.relevance.encodings import WORTH_A_FILE, Encoded
from serm.settings import RelevanceSettings

WORDS = ["cat", "dog", "face", "grinning", "heart", "red"]
LAYER = 1
Open = Callable[..., Encoder]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = np.random.default_rng(3)
    drawn = [" ".join(generator.choice(WORDS, size)) for size in generator.integers(0, 12, 300)]
    return list(dict.fromkeys(drawn))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    save_base(path)
    return path


@pytest.fixture
def opened(base: Path, tmp_path: Path) -> Open:
    """Open the encoder as a step of its own would; all steps keep in one place."""

    def make(cache_mb: int = 1) -> Encoder:
        settings = RelevanceSettings(max_tokens=16, cache=tmp_path / "kept", cache_mb=cache_mb)
        return load_encoder(str(base), settings)

    return make


def same(one: Encoded, other: Encoded) -> bool:
    pairs = [(one.vectors, other.vectors), (one.states, other.states)]
    return all(torch.equal(*pair) for pair in pairs) and bool((one.starts == other.starts).all())


def test_a_text_has_the_same_bits_whatever_was_kept_before(opened: Open, texts: list[str], tmp_path: Path) -> None:
    nothing_kept = opened(cache_mb=0).encode(texts, "passage", LAYER)
    opened().encode(texts[40:90], "passage", LAYER)
    assert same(opened().encode(texts, "passage", LAYER), nothing_kept)  # some from disk, some computed
    assert same(opened().encode(texts, "passage", LAYER), nothing_kept)  # all from disk
    assert (opened().embed(texts, "passage") == nothing_kept.vectors.numpy()).all()


def test_what_is_kept_is_not_computed_again(opened: Open, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened().encode(texts, "query", LAYER)
    later = opened()
    monkeypatch.setattr(later, "_compute", None)
    later.encode(texts[::-1], "query", LAYER)
    later.embed(texts[:3], "query")
    with pytest.raises(TypeError):
        later.embed(texts[:3], "passage")  # another kind is another text


def test_a_vector_alone_does_not_stand_in_for_states(opened: Open, texts: list[str]) -> None:
    opened().embed(texts, "query")
    assert same(opened().encode(texts, "query", LAYER), opened(cache_mb=0).encode(texts, "query", LAYER))


@pytest.mark.parametrize("damage", ["cut off", "empty", "another tensor", "a bit of each kind"])
def test_what_is_damaged_is_computed_again(opened: Open, texts: list[str], tmp_path: Path, damage: str) -> None:
    nothing_kept = opened(cache_mb=0).encode(texts, "query", LAYER)
    opened().encode(texts, "query", LAYER)
    (file,) = (tmp_path / "kept").iterdir()
    whole = bytearray(file.read_bytes())
    if damage == "cut off":
        del whole[len(whole) // 2 :]
    elif damage == "empty":
        whole.clear()
    elif damage == "another tensor":
        whole = whole.replace(b'"vectors"', b'"victors"')
    else:
        begin = 8 + int.from_bytes(whole[:8], "little")
        for place in range(begin, len(whole), 997):
            whole[place] ^= 1
    file.write_bytes(whole)
    assert same(opened().encode(texts, "query", LAYER), nothing_kept)


def test_no_more_is_kept_than_the_bound_and_the_last_used_stays(
    opened: Open, texts: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder = opened()
    parts = [texts[start : start + WORTH_A_FILE] for start in range(0, 5 * WORTH_A_FILE, WORTH_A_FILE)]
    encoder.encode(parts[0], "query", LAYER)
    (file,) = (tmp_path / "kept").iterdir()
    room = 4 * file.stat().st_size
    monkeypatch.setattr(encoder._encodings(), "_room", room)
    for part in parts:
        encoder.encode(part, "query", LAYER)
        assert sum(one.stat().st_size for one in (tmp_path / "kept").iterdir()) <= room
    later = opened()
    monkeypatch.setattr(later, "_compute", None)
    later.encode(parts[-1], "query", LAYER)


def test_where_nothing_can_be_written_all_is_computed(base: Path, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    settings = RelevanceSettings(max_tokens=16, cache=tmp_path / "file" / "kept", cache_mb=1)
    assert load_encoder(str(base), settings).embed(texts, "query").shape == (len(texts), 16)


def test_batches_of_one_length_have_one_shape_and_hold_each_text_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 700, 900)
    batches = list(steady_batches(lengths))
    assert sorted(np.concatenate([batch for batch, _, _ in batches]).tolist()) == list(range(len(lengths)))
    assert len({(size, width) for _, size, width in batches}) == len({width for _, _, width in batches})
    for batch, size, width in batches:
        assert len(batch) <= size
        assert (lengths[batch] <= width).all()
        assert size * width <= max(STEADY_TOKENS, width)
