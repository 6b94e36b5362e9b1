"""What an LLM judge is asked: versioned templates, and text of strangers that cannot leave its fence."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from serm.judging.evidence.retrieval import Piece
from serm.judging.judge import Pairs
from serm.judging.text import plain, storable
from serm.settings.judging import CriterionSettings

TEMPLATES = "v2"
"""The directory of serm/judging/prompts in use; a changed wording is a new directory."""

MOST_WHY = 400
"""Characters of a person's explanation in a prompt; the rest is cut."""

Message = dict[str, str]

# Autoescape turns <, >, & and quotes of every value into entities: no value can open or close a tag.
_ENVIRONMENT = Environment(
    loader=PackageLoader("serm.judging", f"prompts/{TEMPLATES}"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def version() -> str:
    """Return the templates' name and a hash of their text, so that no edit goes unseen."""
    directory = files("serm.judging") / "prompts" / TEMPLATES
    texts = sorted((file.name, file.read_text(encoding="utf-8")) for file in directory.iterdir())
    return f"{TEMPLATES}-{hashlib.sha256(repr(texts).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Example:
    """A judgment that is shown in prompts, and therefore never measures a judge."""

    query: str
    text: str
    grade: int
    why: str = ""
    """The note of the person who gave the grade."""


@dataclass(frozen=True)
class Question:
    """One pair, as an LLM judge is asked about it."""

    query: str
    locale: str
    text: str
    """The document's title and body."""
    evidence: Sequence[Piece] = ()


@dataclass(frozen=True)
class Prompter:
    """Writes prompts: the rubric with examples of the pair's own locale, then the pair."""

    examples: Mapping[str, Sequence[Example]]
    """By locale; a locale that has none gets those of ``""``."""
    max_chars: int
    """Of a document, a query or a piece of evidence."""
    rubric: str = ""
    """What the grades mean, in the user's words; empty: the template's."""

    def messages(self, question: Question, criteria: Sequence[CriterionSettings] = ()) -> list[Message]:
        """Return the system's and the user's message; equal questions give equal messages."""
        shown = self.examples.get(question.locale) or self.examples.get("", ())
        system = _render(
            "system.jinja",
            locale=plain(question.locale, self.max_chars),
            examples=[Example(self._cut(e.query), self._cut(e.text), e.grade, plain(e.why, MOST_WHY)) for e in shown],
            rubric=_own(self.rubric),
            criteria=[{"name": c.name, "scale": c.scale, "question": _own(c.question)} for c in criteria],
        )
        user = _render(
            "pair.jinja",
            query=self._cut(question.query),
            text=self._cut(question.text),
            evidence=[Piece(piece.source, self._cut(piece.text)) for piece in question.evidence],
        )
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    def comparison(self, pairs: Pairs, row: int, other: int) -> list[Message]:
        """Return the messages that ask which of two pairs of one query has the better document, ``row`` shown first."""
        locale = plain(pairs.locales[row], self.max_chars)
        system = _render("compare_system.jinja", locale=locale, rubric=_own(self.rubric))
        cut = {"query": self._cut(pairs.queries[row])}
        cut |= {"text": self._cut(pairs.texts[row]), "other": self._cut(pairs.texts[other])}
        return [{"role": "system", "content": system}, {"role": "user", "content": _render("compare.jinja", **cut)}]

    def repair(self, messages: list[Message], answer: str, problem: str) -> list[Message]:
        """Return the same conversation, with a malformed ``answer`` and the wish for another."""
        asked = _render("repair.jinja", problem=plain(problem, 200))
        # An empty turn is refused by some endpoints.
        said = {"role": "assistant", "content": answer[: self.max_chars] or "-"}
        return [*messages, said, {"role": "user", "content": asked}]

    def _cut(self, text: str) -> str:
        return plain(text, self.max_chars)


def _own(text: str) -> Markup:
    """Return text of params.yaml, which may instruct a judge, but not open or close a stranger's fence."""
    return Markup(html.escape(storable(text), quote=False).strip())


def _render(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(values).strip()
