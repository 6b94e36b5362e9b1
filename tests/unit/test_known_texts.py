"""Texts that are computed once and kept: the scores are the same, and memory has its bound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serm import relevance
from serm.relevance.encodings import Encoded
from serm.relevance.known import ENTRY_BYTES, KnownText, KnownTexts

WORDS = ["cat", "dog", "grinning cat", "red heart face", "", "cat " * 40]
TEXTS = st.sampled_from(WORDS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[relevance.RelevanceModel]]:
    """Two on the same encoder, and one on another; without bf16, where a sum may be rounded another way in a batch."""
    root = tmp_path_factory.mktemp("models")
    words = [*tiny_models.WORDS, "unshared"]  # an encoder of their own: one that is shared may compute in bf16 already
    for seed in (0, 1):
        tiny_models.save(root / str(seed), root / "base", seed, words)
    tiny_models.save(root / "2", root / "base", 0, ["passage", "query", "dog", "cat", "heart"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        yield [relevance.load(root / str(seed)) for seed in range(3)]  # type: ignore[misc]


def test_scores_are_the_same_with_known_texts_and_in_any_batch(models: list[relevance.RelevanceModel]) -> None:
    known = KnownTexts(200_000)

    @settings(max_examples=40)
    @given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12), cut=st.integers(1, 12))
    def holds(pairs: list[tuple[str, str]], cut: int) -> None:
        queries, documents = (list(side) for side in zip(*pairs, strict=True))
        for model in models:
            model.known = None
            alone = model.score(queries, documents)
            assert model.score_read(model.read(queries, documents)).expected == pytest.approx(alone.expected, abs=1e-5)
            model.known = known
            read = model.read(queries, documents)
            parts = [model.score_read(part) for part in (read[:cut], read[cut:]) if part]
            found = np.concatenate([part.distribution for part in parts])
            assert found == pytest.approx(alone.distribution, abs=1e-5)
            assert [pair.cut for pair in read] == [len(one) > 100 for one in documents]

    holds()
    assert known.hits > known.misses > 0


def test_a_known_text_is_not_computed_again_nor_by_a_second_model_on_the_same_encoder(
    models: list[relevance.RelevanceModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownTexts(200_000)
    computed: list[int] = []
    run = relevance.Encoder.run

    def counted(encoder: relevance.Encoder, ids: list[list[int]], layer: int) -> Encoded:
        computed.append(len(ids))
        return run(encoder, ids, layer)

    monkeypatch.setattr(relevance.Encoder, "run", counted)
    for model in models:
        model.known = known
        model.score_read(model.read(["cat"] * 2, ["dog", "red heart face"]))
        model.score_read(model.read(["cat"] * 2, ["dog", "grinning cat"]))
    # The first model: a query with two documents, then one new document; the second nothing; the third all, on its own.
    assert [count for count in computed if count] == [3, 1, 3, 1]
    assert models[0].encoder is models[1].encoder


def _text(tokens: int) -> KnownText:
    return KnownText(torch.zeros(4), torch.zeros(tokens, 4, dtype=torch.half), False)


@given(keys=st.lists(st.integers(0, 9), max_size=60), room=st.integers(0, 8))
def test_memory_is_bounded_and_what_was_not_asked_for_the_longest_goes_first(keys: list[int], room: int) -> None:
    size = _text(3).bytes
    assert size == ENTRY_BYTES + 4 * 4 + 3 * 4 * 2
    known, recent = KnownTexts(room * size + size // 2), []
    for key in keys:
        assert (known.get(("encoder", b"%d" % key)) is not None) == (key in recent)
        known.put(("encoder", b"%d" % key), _text(3))
        recent = [*(one for one in recent if one != key), key][-room:] if room else []
        assert known.bytes == len(known) * size <= known.max_bytes
    known.put(("encoder", b"long"), _text(10**6))
    assert known.peek(("encoder", b"long")) is None
    assert len(known) == len(recent)
    assert known.hits + known.misses == len(keys)


def test_what_a_model_knew_that_serves_no_more_is_forgotten() -> None:
    known = KnownTexts(10**6)
    every = ("1/8", "2/8", "2/9", "an export")
    for frozen in every:
        known.put((frozen, b"a text"), _text(3))
    known.keep({"2/8", "an export"})
    assert [known.peek((frozen, b"a text")) is not None for frozen in every] == [False, True, False, True]
    assert known.bytes == 2 * _text(3).bytes
