"""Texts and pairs as a model reads them: tokenised, or known and not tokenised again. It imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serm.relevance.interface import CHARACTERS_A_TOKEN, Kind, readable, unique
from serm.relevance.known import Key, KnownText, KnownTexts, key_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, eq=False, slots=True)
class Text:
    """A text that was tokenised."""

    ids: list[int]
    cut: bool
    """Whether it is longer than what the model reads."""


@dataclass(frozen=True, eq=False, slots=True)
class ReadText:
    """A text that was tokenised, or need not be, for it is known."""

    key: Key
    """The model's frozen part, and a hash of the text's content: no text is kept."""
    ids: list[int]
    """Empty where it is known."""
    tokens: int
    cut: bool
    known: KnownText | None


@dataclass(frozen=True, eq=False, slots=True)
class TextPair:
    """A query and a document, read."""

    query: ReadText
    document: ReadText

    @property
    def tokens(self) -> int:
        """Tokens of both."""
        return self.query.tokens + self.document.tokens

    @property
    def cut(self) -> bool:
        """Whether the document is longer than what the model reads."""
        return self.document.cut


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], kind: Kind, max_tokens: int) -> list[Text]:
    """Tokenise ``texts`` with E5's prefix of their kind; ``tokenizer`` cuts at ``max_tokens``, and several threads may.

    Returns:
        A ``Text`` each, in their order.
    """
    limit = max_tokens * CHARACTERS_A_TOKEN
    found = tokenizer.encode_batch([f"{kind}: {readable(text, limit)}" for text in texts])
    return [Text(one.ids, len(one) == max_tokens and bool(one.overflowing)) for one in found]


def read(
    texts: Sequence[str],
    kind: Kind,
    frozen: str,
    known: KnownTexts | None,
    tokenised: Callable[[list[str], Kind], list[Text]],
) -> list[ReadText]:
    """Read ``texts``, each distinct one once, and a known one not at all.

    Args:
        texts: any; equal ones share a result.
        kind: of all of them.
        frozen: names the part of the model that reads a text alone; it is part of the keys.
        known: where to find what was computed before; None, nowhere.
        tokenised: tokenises texts of a kind.

    Returns:
        A ``ReadText`` each, in their order.
    """
    distinct, rows = unique(texts)
    keys = [(frozen, key_of(kind, text)) for text in distinct]
    before = [None if known is None else known.get(key) for key in keys]
    new = iter(tokenised([text for text, one in zip(distinct, before, strict=True) if one is None], kind))
    found = []
    for key, one in zip(keys, before, strict=True):
        if one is not None:
            found.append(ReadText(key, [], len(one.states), one.cut, one))
        else:
            text = next(new)
            found.append(ReadText(key, text.ids, len(text.ids), text.cut, None))
    return [found[row] for row in rows]
