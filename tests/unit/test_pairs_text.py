"""One normal form of a text: whatever types or stores it, it is the same query."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pyarrow as pa
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm.pairs.text import fold, folded

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LATIN = st.text("abcdefgh äöüéçñß 0123-+/", min_size=1, max_size=20)
INVISIBLE = ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u200e", "\u061c", "\ufe0f", "\u034f"]
SPACES = [" ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\u2028"]


@settings(max_examples=examples(1000))
@given(TEXTS)
def test_folding_twice_changes_nothing_more(text: str) -> None:
    once = fold(text)
    assert fold(once) == once
    assert once == once.strip()


@settings(max_examples=examples(500))
@given(TEXTS, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.booleans())
def test_unicode_forms_and_case_are_one(text: str, form: str, first: bool) -> None:
    respelled = unicodedata.normalize(form, text).casefold() if first else unicodedata.normalize(form, text.casefold())
    assert fold(respelled) == fold(text)


@settings(max_examples=examples(500))
@given(LATIN, st.lists(st.tuples(st.integers(0, 20), st.sampled_from(INVISIBLE)), max_size=5))
def test_what_nobody_sees_changes_nothing(text: str, inserted: list[tuple[int, str]]) -> None:
    respelled = unicodedata.normalize("NFD", text)
    for place, character in inserted:
        respelled = respelled[:place] + character + respelled[place:]
    assert fold(respelled) == fold(text)


@settings(max_examples=examples(500))
@given(st.lists(LATIN, min_size=1, max_size=4), st.lists(st.sampled_from(SPACES), min_size=1, max_size=3))
def test_white_space_is_one_space_between_words(words: list[str], spaces: list[str]) -> None:
    gap = "".join(spaces)
    assert fold(gap + gap.join(words) + gap) == fold(" ".join(words))


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20))
def test_full_width_is_half_width(text: str) -> None:
    assert fold("".join(chr(ord(character) + 0xFEE0) for character in text)) == fold(text)


@pytest.mark.parametrize(
    "same",
    [
        ("Straße", "STRASSE", "strasse", "STRAẞE"),
        ("café", "cafe\u0301", "CAFÉ", "ｃａｆé"),
        ("ｶﾞｽ", "ガス", "カ\u3099ス"),
        ("❤️", "❤"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος", "σίσυφοσ"),
        ("ᾳ", "αι"),
        ("ﬁle Ⅻ", "file xii"),
        ("", "\u200b \ufeff"),
    ],
)
def test_spellings_of_one_query(same: tuple[str, ...]) -> None:
    assert all(fold(one) == fold(other) for one, other in pairwise(same))


@pytest.mark.parametrize(("one", "other"), [("cafe", "café"), ("a b", "ab"), ("1", "one"), ("が", "か"), ("हि", "ही")])
def test_other_queries_stay_apart(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_a_column_is_folded_in_its_order_with_its_nulls() -> None:
    texts = ["B  a", None, "b A", "c"]
    assert folded(pa.array(texts)).to_pylist() == ["b a", None, "b a", "c"]
    assert folded(pa.chunked_array([texts[:2], texts[2:]])).to_pylist() == ["b a", None, "b a", "c"]
    assert folded(pa.chunked_array([], pa.string())).to_pylist() == []
    assert folded(pa.array([], pa.string())).to_pylist() == []
