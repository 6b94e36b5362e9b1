"""Words and letters of a text in any language: what BM25, lexical evidence and token overlap count."""

from __future__ import annotations

import unicodedata

from serm.pairs.text import fold


def words(text: str) -> list[str]:
    """Return the runs of letters, marks and digits in ``text``; marks are vowels in Hindi, Bengali and Thai."""
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split()


def letters(text: str) -> list[str]:
    """The character bi- and trigrams of each word, its borders marked."""
    return [
        f"_{word}_"[start : start + size]
        for word in words(text)
        for size in (2, 3)
        for start in range(len(word) + 3 - size)
    ]


def tokens(text: str) -> list[str]:
    """Words and letters of the folded ``text``, told apart by a mark."""
    folded = fold(text)
    return [f"w:{word}" for word in words(folded)] + letters(folded)
