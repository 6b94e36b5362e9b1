"""Words, letters and BM25: one search by words for every step."""

from __future__ import annotations

import bm25s
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm.pairs.bm25 import BM25
from serm.pairs.text import fold
from serm.pairs.tokens import letters, tokens, words

TEXTS = st.text("abc äß日😀\u200b ", max_size=12)


@pytest.mark.parametrize("word", ["हिंदी", "ภาษาไทย", "বাংলা", "kaņepes", "日本語"])
def test_words_keep_their_marks(word: str) -> None:
    assert words(f"{word}, {word}!") == [word, word]


def test_tokens_are_words_and_the_letters_inside_their_borders() -> None:
    assert letters("ab c") == ["_a", "ab", "b_", "_ab", "ab_", "_c", "c_", "_c_"]
    assert tokens("Ab C") == ["w:ab", "w:c", *letters("ab c")]


@settings(max_examples=examples(200))
@given(TEXTS)
def test_spellings_of_one_text_have_the_same_tokens(text: str) -> None:
    assert tokens(text) == tokens(fold(text)) == tokens(f" {text.upper().lower()}\u200b")


def test_what_shares_most_with_the_query_comes_first_and_what_shares_nothing_never() -> None:
    index = BM25(["blue dog", "cat face", "red cat", "", "rote Katze", "red cat"])
    assert index.nearest("red cat", 9) == [2, 5, 1, 4]
    assert index.nearest("red cat", 2) == [2, 5]  # equals in their order
    assert index.nearest("xyz", 9) == []
    assert index.scores("xyz").tolist() == [0] * 6


@pytest.mark.parametrize("texts", [["😀", "🎉 !"], [""], []])
def test_a_catalogue_without_words_finds_nothing(texts: list[str]) -> None:
    index = BM25(texts)
    assert index.scores("red").tolist() == [0] * len(texts)
    assert index.nearest("red", 3) == []


@settings(max_examples=examples(200))
@given(st.lists(TEXTS, min_size=1, max_size=6), TEXTS)
def test_scores_are_those_of_the_library(texts: list[str], query: str) -> None:
    found = BM25(texts).scores(query)
    assert (found.shape, found.dtype) == ((len(texts),), np.float32)
    shared = [bool(set(tokens(text)) & set(tokens(query))) for text in texts]
    assert (found > 0).tolist() == shared
    if any(shared):
        library = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        library.index([tokens(text) for text in texts], show_progress=False)
        assert found.tolist() == library.get_scores(tokens(query)).tolist()
