"""Text of strangers, made fit to be kept and shown."""

from __future__ import annotations

import unicodedata

_UNWANTED = ("Cc", "Cf", "Cs", "Co")
_KEPT = "\n\t\u200c\u200d"


def plain(text: str, max_chars: int) -> str:
    """Put ``text`` on one line without control and format characters, at most ``max_chars`` long.

    Lone surrogates, which UTF-8 cannot hold, and private characters go too. Zero-width joiners stay: they spell words
    in Indic scripts and Persian, and emoji. So do characters newer than this Python's Unicode.
    """
    return " ".join(storable(text[: 2 * max_chars]).split())[:max_chars]


def storable(text: str) -> str:
    """Put a space for each control, format or private character and lone surrogate; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in _KEPT or unicodedata.category(c) not in _UNWANTED else " " for c in text)
