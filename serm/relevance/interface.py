"""What every relevance model is to the rest of SERM, whatever its family. It imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from serm.relevance.known import KnownTexts

Kind = Literal["query", "passage"]
Indices = NDArray[np.int64]
CHARACTERS_A_TOKEN = 64
"""More than any token of a text has: a token of running text has about four."""
MAX_CHARACTERS = 512 * CHARACTERS_A_TOKEN
"""What a model reads of a text at most: ``relevance.max_tokens`` is 512 at most."""


@dataclass(frozen=True)
class Scores:
    """What a model thinks of ``n`` pairs."""

    expected: NDArray[np.float64]
    """[n] expected grade, 0 to 3."""
    distribution: NDArray[np.float64]
    """[n, 4] Pr(grade)."""


class ReadPair(Protocol):
    """A pair as a model reads it: tokenised, and cut to what the model takes."""

    @property
    def tokens(self) -> int:
        """Tokens that the model reads of it."""
        ...

    @property
    def cut(self) -> bool:
        """Whether its document is longer than what the model reads."""
        ...


class Scorer(Protocol):
    """``n`` pairs in, ``queries[i]`` with ``documents[i]``, and their scores in that order."""

    version: str

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Return the pairs' expected grades and grade distributions."""
        ...


class Servable(Scorer, Protocol):
    """What serving needs: ``score`` in two parts, ``score_read`` of ``read``.

    A server reads in one thread while it scores in another, and puts pairs of many requests into one call.
    """

    known: KnownTexts | None
    """Where what a text is on its own is kept and found; None, or a family that has no such part: nowhere."""
    slots: int
    """Places for pairs' tokens that were computed so far, those of padding too."""

    @property
    def frozen(self) -> str:
        """Names the part that reads a text alone, by what it was read from: what is ``known`` of texts is its."""
        ...

    @property
    def max_tokens(self) -> int:
        """After how many tokens a text is cut."""
        ...

    def read(self, queries: Sequence[str], documents: Sequence[str]) -> Sequence[ReadPair]:
        """Tokenise the pairs; any thread may, while another one scores."""
        ...

    def score_read(self, pairs: Sequence[Any]) -> Scores:
        """Return what ``score`` returns, for pairs that ``read`` of this model returned, in any mixture."""
        ...

    def prepare(self, documents: Sequence[str]) -> None:
        """Compute what documents are on their own, so that they are ``known``; nothing where nothing is kept."""
        ...


class Embedder(Protocol):
    """What finding near documents and clustering queries need: texts in, unit vectors out."""

    def embed(self, texts: Sequence[str], kind: Kind) -> NDArray[np.float32]:
        """Return unit vectors [n, dim] for ``texts``."""
        ...


class Model(Scorer, Protocol):
    """What mining, training and evaluation need: a model of either family."""

    @property
    def encoder(self) -> Embedder:
        """The frozen text encoder that the model stands on."""
        ...

    def sample(self, queries: Sequence[str], documents: Sequence[str], samples: int, seed: int) -> NDArray[np.float64]:
        """Return grades [samples, n] as the model might give them; the same seed gives the same samples."""
        ...

    def save(self, path: Path) -> None:
        """Write the model to the directory ``path``, atomically, and set ``version``."""
        ...


def document_text(title: str, body: str) -> str:
    """Return the text that stands for a document: its title, then its body."""
    return f"{title} {body}".strip()


def readable(text: str, characters: int) -> str:
    """Return as much of ``text`` as a model that reads ``characters`` of it can need, whatever its length.

    A text that is longer is cut before it is tokenised, its white space collapsed, so that a page of empty lines
    before the first word costs neither the time nor the words.
    """
    if len(text) <= characters:
        return text
    return " ".join(text[: 16 * MAX_CHARACTERS].split())[:characters]


def unique(texts: Sequence[str]) -> tuple[list[str], Indices]:
    """Return the distinct texts in order of appearance, and for each text its row among them."""
    rows: dict[str, int] = {}
    indices = np.array([rows.setdefault(text, len(rows)) for text in texts], np.int64)
    return list(rows), indices


def length_batches(lengths: Indices, tokens: int) -> Iterator[Indices]:
    """Yield indices in batches of at most ``tokens`` padded tokens (at least one text), longest first."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size
