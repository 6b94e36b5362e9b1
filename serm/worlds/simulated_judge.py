"""A simulated LLM judge: it knows the hidden truth and errs as it is told to, so that experiments can ask what a judge
of a given quality is worth. ``serm.worlds.simulated_endpoint`` puts it behind the protocol of a real one.

Whether it errs on a pair follows from a hash of the pair and a salt alone: two runs, and all paths of a run, agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from serm import contracts
from serm.contracts import Grade
from serm.judging.text import plain
from serm.settings.section import Section, Share
from serm.worlds.emoji import EmojiWorld

Array = npt.NDArray[Any]
Row = Annotated[tuple[Share, ...], Field(min_length=len(Grade), max_length=len(Grade))]

FARTHER = 3.0
"""An error that lies one grade farther off is so many times rarer, where only the accuracy is set."""
_MOST_CHARS = 10_000
"""Of a document's text."""


class SimulatedJudgeSettings(Section):
    """How good a simulated judge is, what its errors share with others', and how its endpoint behaves."""

    accuracy: Share = 0.85
    """Share of pairs of each true grade that it grades right."""
    confusion: Annotated[tuple[Row, ...], Field(min_length=len(Grade), max_length=len(Grade))] | None = None
    """In place of ``accuracy``: row g holds the probabilities of the grades it gives to pairs of the true grade g."""
    salt: str = "simulated"
    """Judges of two salts err on pairs of their own."""
    shared: Share = 0.0
    """Share of pairs on which its error is drawn with ``shared_salt``, as is that of every judge with the same one."""
    shared_salt: str = "shared"
    like_champion: Share = 0.0
    """Share of the champion's pairs on which it errs as the champion does: first where the champion's score is farthest
    from the truth, until ``accuracy`` is met, and with the champion's grade where that is wrong."""
    likes_first: Share = 0.0
    """Share of comparisons of two documents in which it prefers the one shown first, whatever they are."""
    confidence: Annotated[float, Field(ge=1 / len(Grade), lt=1)] = 0.95
    """The probability that it gives its own grade, right or wrong, in words and in log-probabilities."""
    latency: Annotated[float, Field(ge=0, le=600)] = 0.0
    """Seconds before an answer."""
    failures: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of requests that are answered 503, by a hash of the request and of how often it came."""
    input_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """What a call is billed; null: a token for three bytes of the prompt. The price stands in ``judging.llms``."""
    output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _sums(self) -> SimulatedJudgeSettings:
        if any(abs(sum(row) - 1) > 1e-6 for row in self.confusion or ()):
            raise ValueError("confusion: each row must sum to 1")
        if self.shared + self.like_champion > 1:
            raise ValueError("shared and like_champion: together at most 1")
        return self

    def matrix(self) -> Array:
        """Return the confusion matrix, [true grade, given grade]."""
        if self.confusion is not None:
            return np.array(self.confusion)
        apart = np.abs(np.subtract.outer(np.arange(len(Grade)), np.arange(len(Grade))))
        wrong = np.where(apart > 0, FARTHER ** -apart.astype(float), 0.0)
        wrong *= (1 - self.accuracy) / wrong.sum(axis=1, keepdims=True)
        return wrong + self.accuracy * np.eye(len(Grade))


class PromptedTruth:
    """The truth of a world by what a prompt shows: query, locale and the document's text."""

    def __init__(self, world: EmojiWorld) -> None:
        from serm.relevance import document_text  # torch: not for those who only want the settings

        hidden = world.truth
        self._grades = hidden.grades
        self._rows = {key: row for row, key in enumerate(zip(hidden.locales, hidden.queries, strict=True))}
        self._columns = {hexcode: column for column, hexcode in enumerate(hidden.hexcodes)}
        self._documents: dict[tuple[str, str], list[str]] = {}
        table = contracts.read(world.data / "documents", contracts.DOCUMENTS)
        for doc_id, locale, title, body in zip(
            *(table[name].to_pylist() for name in ("doc_id", "locale", "title", "body")), strict=True
        ):
            self._documents.setdefault((locale, plain(document_text(title, body), _MOST_CHARS)), []).append(doc_id)

    @staticmethod
    @cache
    def of(world: EmojiWorld) -> PromptedTruth:
        """Return that of ``world``; the judges of a process share it."""
        return PromptedTruth(world)

    def grade(self, query: str, locale: str, doc_id: str) -> int | None:
        """Return the true grade; None where query or document are not of the world."""
        row, column = self._rows.get((locale, query)), self._columns.get(doc_id.partition("-")[2])
        return None if row is None or column is None else int(self._grades[row, column])

    def find(self, query: str, locale: str, text: str) -> tuple[str, int] | None:
        """Return document and true grade of a pair; of two documents with one text the better one.

        Where more stands behind a document's text (planted, padded), the longest text that it begins with counts: the
        simulated judge obeys nobody.
        """
        words = plain(text, _MOST_CHARS).split(" ")
        for end in range(len(words), 0, -1):
            if found := self._documents.get((locale, " ".join(words[:end]))):
                graded = [(grade, d) for d in found if (grade := self.grade(query, locale, d)) is not None]
                return (max(graded)[1], max(graded)[0]) if graded else None
        return None


class SimulatedJudge:
    """Grades pairs of a world."""

    def __init__(self, world: EmojiWorld, settings: SimulatedJudgeSettings, champion: Path | None = None) -> None:
        """Take the champion's scores, for ``like_champion``, from the MINED_PAIRS dataset ``champion``.

        It is read when it is there, and again whenever it has changed, so that it can be one of a workspace's cycle.
        """
        self.settings = settings
        self.truth = PromptedTruth.of(world)
        self._matrix = settings.matrix()
        self._path = champion
        self._stamp: object = None
        self._champion: Mapping[tuple[str, str, str], tuple[float, int]] = {}

    def opinion(self, query: str, locale: str, text: str, question: str = "") -> int | None:
        """Return its grade, 0 to 3; None where it does not know query or document.

        Of a narrow ``question``, by name, it has an opinion of its own, as right as its grades, and errs in it apart.
        """
        found = self.truth.find(query, locale, text)
        if found is None:
            return None
        doc_id, truth = found
        pair, of = (query, locale, doc_id), self.settings
        source = drawn(of.shared_salt, "source", *pair)
        chances = self._matrix[truth]
        if source < of.like_champion and (like := self._of_champion().get(pair)) is not None:
            chance, grade = like
            if chance >= chances[truth] and grade != truth:
                return grade
            return _said(chances, truth, chance)
        shared = of.like_champion <= source < of.like_champion + of.shared
        return _said(chances, truth, drawn(of.shared_salt if shared else of.salt, question or "grade", *pair))

    def preference(self, query: str, locale: str, first: str, second: str) -> str | None:
        """Return which document it prefers, ``A`` the first, ``B`` the second or ``neither``; None as ``opinion``.

        It has an opinion of each document beside the other, as right as its grades, whichever comes first.
        """
        beside = "\t".join(sorted((first, second)))
        one, two = (self.opinion(query, locale, text, f"beside {beside}") for text in (first, second))
        if one is None or two is None:
            return None
        if drawn("first", self.settings.salt, query, locale, beside) < self.settings.likes_first:
            return "A"
        return "neither" if one == two else "A" if one > two else "B"

    def _of_champion(self) -> Mapping[tuple[str, str, str], tuple[float, int]]:
        if self._path is None or not self._path.exists():
            return {}
        stamp = (self._path.stat().st_ino, self._path.stat().st_mtime_ns)
        if stamp != self._stamp:
            mined = contracts.read(self._path, contracts.MINED_PAIRS)
            columns = (mined[name].to_pylist() for name in ("query", "locale", "doc_id", "score"))
            self._champion, self._stamp = _champion(self.truth, zip(*columns, strict=True)), stamp
        return self._champion


def drawn(*parts: str) -> float:
    """Return a number in [0, 1) that follows from ``parts`` alone."""
    return int.from_bytes(hashlib.sha256("\t".join(parts).encode()).digest()[:8], "big") / 2**64


def _said(chances: Array, truth: int, chance: float) -> int:
    """Return the grade for a uniform ``chance``: low ones are right, then the nearest errors, then farther ones."""
    order = sorted(range(len(chances)), key=lambda grade: (abs(grade - truth), grade))
    place = int(np.searchsorted(np.cumsum(chances[order]), chance, side="right"))
    return order[min(place, len(order) - 1)]


def _champion(
    truth: PromptedTruth, scored: Iterable[tuple[str, str, str, float]]
) -> dict[tuple[str, str, str], tuple[float, int]]:
    """Return by pair a chance in [0, 1), the higher the farther the champion's score is from the truth, and its grade.

    The chances of all pairs are evenly spread, so that a judge that errs on the highest ones has its accuracy.
    """
    known = [(q, loc, d, s, g) for q, loc, d, s in scored if (g := truth.grade(q, loc, d)) is not None]
    order = sorted(known, key=lambda of: (abs(of[3] - of[4]), drawn("tie", *of[:3])))
    return {
        (query, locale, doc_id): ((place + 0.5) / len(order), int(np.clip(np.rint(score), 0, len(Grade) - 1)))
        for place, (query, locale, doc_id, score, _) in enumerate(order)
    }
