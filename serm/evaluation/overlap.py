"""Whether a query and a document share a token: the pairs that word matching alone can solve."""

from __future__ import annotations

from serm.pairs.text import fold
from serm.pairs.tokens import words

#: Languages written without spaces between words, or (Korean) with particles glued to them.
UNSPACED = frozenset({"ja", "ko", "th", "zh"})


def tokens(text: str) -> frozenset[str]:
    """Return the words of the folded ``text``."""
    return frozenset(words(fold(text)))


def share_token(query: str, document: str, locale: str) -> bool:
    """Tell whether ``query`` and ``document`` share a token.

    In the languages of ``UNSPACED`` a run of letters is no word, so there a run of one side that holds a run of
    the other counts too (``猫`` and ``猫の顔``).
    """
    asked, offered = tokens(query), tokens(document)
    if locale.split("-")[0] not in UNSPACED:
        return not asked.isdisjoint(offered)
    return any(a in b or b in a for a in asked for b in offered)
