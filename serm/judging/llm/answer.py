"""What an LLM judge must answer, and how a grade distribution is read off its answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serm.contracts import Grade
from serm.judging.judge import GRADES
from serm.judging.text import plain
from serm.settings.judging import CriterionSettings

Object = TypeVar("Object", bound=BaseModel)
MOST_STARTS = 200
"""Braces, counted from the end, at which an answer's object is looked for."""
MOST_TEXT = 2000
"""Characters of a text in an answer; the rest is cut."""


def _grade(label: object) -> object:
    """Take a grade that is spelled as text or as 2.0."""
    if isinstance(label, str):
        named = label.strip().casefold()
        names = {grade.name.casefold(): grade.value for grade in Grade} | {str(g.value): g.value for g in Grade}
        return names.get(named, label)
    return int(label) if isinstance(label, float) and label.is_integer() else label


class Answer(BaseModel):
    """The JSON object of one path; the reasoning stands before the label, so that the label can follow from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rationale: str
    evidence_used: list[int]
    criteria: dict[str, Any] = {}
    """Answers to narrow questions, by name; ``parse`` leaves those that were asked for."""
    label: Annotated[Literal[0, 1, 2, 3], BeforeValidator(_grade)]
    confidence: float = Field(ge=0, le=1)


class Better(BaseModel):
    """The JSON object of one comparison of two documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rationale: str
    better: Literal["A", "B", "neither"]

    @property
    def score(self) -> float:
        """1 where the document shown first is better, 0 where the other is, 0.5 where neither is."""
        return {"A": 1.0, "B": 0.0, "neither": 0.5}[self.better]


def better_format() -> dict[str, Any]:
    """Return what constrains the decoding of a comparison."""
    return {
        "type": "json_schema",
        "json_schema": {"name": "better", "strict": True, "schema": Better.model_json_schema()},
    }


def response_format(criteria: Sequence[CriterionSettings] = ()) -> dict[str, Any]:
    """Return what constrains the endpoint's decoding, where it can."""
    schema = Answer.model_json_schema()
    of = {one.name: {"type": "integer", "enum": list(range(highest(one) + 1))} for one in criteria}
    answered = {"type": "object", "properties": of, "required": list(of), "additionalProperties": False}
    properties = {name: answered if name == "criteria" else field for name, field in schema["properties"].items()}
    if not criteria:
        del properties["criteria"]
    whole = schema | {"properties": properties, "required": list(properties)}
    return {"type": "json_schema", "json_schema": {"name": "grade", "strict": True, "schema": whole}}


def highest(criterion: CriterionSettings) -> int:
    """Return the highest answer to a narrow question; the lowest is 0."""
    return 1 if criterion.scale == "yes-no" else GRADES - 1


class Malformed(Exception):
    """An answer is not the object that was asked for; the text says what is wrong."""


def parse(content: str, criteria: Sequence[CriterionSettings] = ()) -> Answer:
    """Read an answer: the outermost JSON object that ends at the last brace.

    What stands around it is passed over: thinking with braces of its own, a Markdown fence. Its texts come back on
    one line, fit to be stored and shown.

    Raises:
        Malformed: there is no such object, or a field is missing or out of its bounds.
    """
    answer = _read(content, Answer)
    return answer.model_copy(update={"criteria": {one.name: _answered(answer.criteria, one) for one in criteria}})


def parse_better(content: str) -> Better:
    """Read the answer to a comparison, as ``parse`` reads a grade.

    Raises:
        Malformed: there is no such object, or a field is missing or out of its bounds.
    """
    return _read(content, Better)


def _read(content: str, form: type[Object]) -> Object:
    found = _last_object(content)
    if found is None:
        raise Malformed("no whole JSON object")
    try:
        texts = {name: plain(value, MOST_TEXT) if isinstance(value, str) else value for name, value in found.items()}
        return form.model_validate(texts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Malformed(plain(f"{where}: {first['msg']}" if where else str(first["msg"]), 200)) from error


def _answered(given: Mapping[str, Any], criterion: CriterionSettings) -> int:
    """Return the answer to one narrow question; text, true and false, and 2.0 are taken for numbers."""
    said = given.get(criterion.name)
    if isinstance(said, str):
        said = {"yes": 1, "no": 0, "true": 1, "false": 0}.get(said.strip().casefold(), _grade(said))
    said = _grade(int(said) if isinstance(said, bool) else said)
    if not isinstance(said, int) or not 0 <= said <= highest(criterion):
        raise Malformed(f"criteria.{criterion.name}: expected a whole number from 0 to {highest(criterion)}")
    return said


def _last_object(content: str) -> dict[str, Any] | None:
    end = content.rfind("}") + 1
    starts = [brace.start() for brace in re.finditer("{", content[:end])]
    for start in starts[-MOST_STARTS:]:
        try:
            found, stop = _JSON.raw_decode(content, start)
        except (ValueError, RecursionError):
            continue
        # An object before the last brace is thinking, or a document's words inside a malformed answer.
        if stop == end:
            return found if isinstance(found, dict) else None
    return None


_JSON = json.JSONDecoder()


def distribution(answer: Answer, of_tokens: Sequence[float] | None) -> list[float]:
    """Return the grade distribution of one path: the tokens' if they were given, else the stated confidence."""
    if of_tokens is not None and sum(of_tokens) > 0:
        total = sum(of_tokens)
        return [p / total for p in of_tokens]
    confidence = max(answer.confidence, 1 / GRADES)
    rest = (1 - confidence) / (GRADES - 1)
    return [confidence if grade == answer.label else rest for grade in range(GRADES)]


_LABEL = re.compile(r'"label"\s*:\s*"?(?=[0-3])')


def label_probabilities(tokens: Sequence[tuple[str, Mapping[str, float]]]) -> list[float] | None:
    """Return the probability of each grade at the token that spells the label; None where no token does.

    Args:
        tokens: each generated token and the log-probabilities of its likeliest alternatives.
    """
    text = "".join(token for token, _ in tokens)
    found = list(_LABEL.finditer(text))
    if not found:
        return None
    place, start = found[-1].end(), 0
    for token, alternatives in tokens:
        if start <= place < start + len(token):
            mass = [0.0] * GRADES
            for alternative, log_probability in alternatives.items():
                if (digit := alternative.strip(' "')) in ("0", "1", "2", "3"):
                    mass[int(digit)] += math.exp(log_probability)
            return mass if sum(mass) > 0 else None
        start += len(token)
    return None
