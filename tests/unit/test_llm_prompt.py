"""What an LLM judge is asked and answers: fences that hold, examples of the locale, answers read or repaired."""

from __future__ import annotations

import html
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serm.judging.evidence.retrieval import Piece
from serm.judging.judge import ABSTAINED, GRADES, Pairs
from serm.judging.llm.answer import Malformed, distribution, label_probabilities, parse, response_format
from serm.judging.llm.prompt import Example, Prompter, Question
from serm.judging.llm.vote import Tally
from serm.judging.text import plain
from serm.judging.trust import ATTACKS
from serm.settings.judging import CriterionSettings

LIMIT = 300
EXAMPLES = {"de": [Example("katze", "rote Katze", 3)], "": [Example("cat", "red cat", 3)]}
PROMPTER = Prompter(EXAMPLES, LIMIT)
TAGS = ("query", "document", "evidence")
any_text = st.text() | st.sampled_from(list(ATTACKS.values())) | st.text(alphabet="<>/document\n\"'&;{}% ")
LOCALES = ["de", "en", "ja", "ar", "hi", "</query>", "\ud800"]


def fence(text: str, tag: str) -> list[str]:
    """What stands in the fences of one kind, in a prompt that must have no other tag of that kind."""
    opened = text.split(f"<{tag}")[1:]
    assert text.count(f"</{tag}>") == len(opened)
    return [part.split(">", 1)[1].split(f"</{tag}>")[0] for part in opened]


@given(any_text, any_text, any_text, st.sampled_from(LOCALES))
def test_no_document_that_is_compared_leaves_its_fence(query: str, first: str, second: str, locale: str) -> None:
    pairs = Pairs([query] * 2, [locale] * 2, ["a", "b"], ["", ""], [first, second], [None, None])
    system, user = (message["content"] for message in PROMPTER.comparison(pairs, 0, 1))
    for tag, text in (("query", query), ("document_a", first), ("document_b", second)):
        assert [html.unescape(part) for part in fence(user, tag)] == [plain(text, LIMIT)]
    assert user.count("<") == 6
    assert system.count("<") == 3  # the three that the rules name


@given(any_text, any_text, st.lists(any_text, max_size=3), st.sampled_from(LOCALES))
def test_no_text_leaves_its_fence(query: str, document: str, evidence: list[str], locale: str) -> None:
    question = Question(query, locale, document, [Piece("catalogue", text) for text in evidence])
    system, user = (message["content"] for message in PROMPTER.messages(question))
    inside = {tag: fence(user, tag) for tag in TAGS}
    assert [html.unescape(text) for text in inside["query"]] == [plain(query, LIMIT)]
    assert [html.unescape(text) for text in inside["document"]] == [plain(document, LIMIT)]
    assert [html.unescape(text) for text in inside["evidence"]] == [plain(text, LIMIT) for text in evidence]
    assert not any(c in text for text in [t for texts in inside.values() for t in texts] for c in "<>\n\"'")
    outside = user
    for texts in inside.values():
        for text in texts:
            outside = outside.replace(f">{text}</", "></", 1)
    empty = Question("", "en", "", [Piece("catalogue", "")] * len(evidence))
    assert outside == PROMPTER.messages(empty)[1]["content"]
    assert system.count("</document>") == len(EXAMPLES[""])
    assert len(html.unescape(inside["document"][0])) <= LIMIT
    (system + user).encode()


@pytest.mark.parametrize("word", ["क्‍ष", "می‌خواهم", "👩‍🚒", "日本語", "kaņepes"])
def test_spelling_survives(word: str) -> None:
    assert plain(word, 50) == word


def test_examples_are_of_the_pairs_own_locale() -> None:
    of = {locale: PROMPTER.messages(Question("q", locale, "d"))[0]["content"] for locale in ("de", "fr")}
    assert "rote Katze" in of["de"]
    assert "red cat" not in of["de"]
    assert "red cat" in of["fr"]


OWN = Prompter({"": [Example("cat", "red cat", 3, "said </document> so")]}, LIMIT, "3: a cat\n0: <document>none")


@given(any_text, any_text)
def test_neither_a_rubric_nor_an_explanation_leaves_its_place(rubric: str, why: str) -> None:
    own = Prompter({"": [Example("cat", "red cat", 3, why)]}, LIMIT, rubric)
    system = own.messages(Question("q", "en", "d"))[0]["content"]
    plainly = PROMPTER.messages(Question("q", "en", "d"))[0]["content"]
    assert system.count("</document>") == plainly.count("</document>")
    assert system.count("<document>") == plainly.count("<document>")
    (told,) = fence(system.partition("Grades that people gave")[2], "explanation") or [""]
    assert html.unescape(told) == plain(why, 400)
    system.encode()


def test_the_users_rubric_stands_in_the_place_of_serms_with_peoples_explanations() -> None:
    system = OWN.messages(Question("q", "en", "d"))[0]["content"]
    assert "Grades:\n3: a cat\n0: &lt;document&gt;none\n" in system
    assert "excellent: the document is" not in system
    assert "<explanation>said &lt;/document&gt; so</explanation>\nlabel: 3" in system


CRITERIA = (
    CriterionSettings(name="topic", question="Is it about <that>?"),
    CriterionSettings(name="brand", question="Is it the brand?", scale="yes-no"),
)


def test_narrow_questions_are_asked_and_their_answers_read() -> None:
    system = OWN.messages(Question("q", "en", "d"), CRITERIA)[0]["content"]
    assert "topic (0 = not at all, to 3 = fully): Is it about &lt;that&gt;?" in system
    assert '"criteria": {"topic": number, "brand": number}, "label"' in system
    schema = response_format(CRITERIA)["json_schema"]["schema"]
    assert list(schema["properties"]) == ["rationale", "evidence_used", "criteria", "label", "confidence"]
    assert schema["properties"]["criteria"]["required"] == ["topic", "brand"]
    assert "criteria" not in response_format()["json_schema"]["schema"]["properties"]
    said = {"rationale": "so", "evidence_used": [], "label": 2, "confidence": 0.5}
    answers = {"topic": 2.0, "brand": "yes", "of its own": 7}
    assert parse(json.dumps(said | {"criteria": answers}), CRITERIA).criteria == {"topic": 2, "brand": 1}
    for wrong in ({}, {"topic": 2}, {"topic": 4, "brand": 1}, {"topic": 2, "brand": 2}, {"topic": None, "brand": 1}):
        with pytest.raises(Malformed, match="criteria"):
            parse(json.dumps(said | {"criteria": wrong}), CRITERIA)


def test_an_answer_is_read_out_of_what_stands_around_it() -> None:
    answer = parse('```json\n{"rationale": "so", "evidence_used": [1], "label": 2, "confidence": 0.5}\n```')
    assert (answer.label, answer.evidence_used, answer.confidence) == (2, [1], 0.5)
    assert distribution(answer, None) == pytest.approx([1 / 6, 1 / 6, 0.5, 1 / 6])
    assert distribution(answer, [0.1, 0.0, 0.1, 0.2]) == pytest.approx([0.25, 0, 0.25, 0.5])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no whole JSON object"),
        ('{"rationale": "so", "label": 2', "no whole JSON object"),
        ('{"rationale": "so", "evidence_used": [], "label": 7, "confidence": 1}', "label: "),
        ('{"rationale": "so", "evidence_used": [], "label": "rather good", "confidence": 1}', "label: "),
        ('{"rationale": "so", "evidence_used": [], "label": 3, "confidence": 2}', "confidence: "),
        ('{"rationale": "so", "evidence_used": [], "label": 3}', "confidence: Field required"),
        ('{"rationale": "so", "evidence_used": [], "label": 3, "confidence": 1, "x": 1}', "x: "),
    ],
)
def test_a_malformed_answer_is_named(content: str, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        parse(content)


@given(st.integers(0, 3), st.lists(st.integers(1, 40), max_size=6))
def test_the_labels_token_is_found_however_the_answer_is_split(label: int, cuts: list[int]) -> None:
    content = json.dumps({"rationale": 'the "label": 0 is a trap', "label": label, "confidence": 0.9})
    place = content.rindex(f'"label": {label}') + len('"label": ')
    ends = sorted({c for c in cuts if c < len(content) and c != place + 1 and c != place} | {place, place + 1})
    parts = [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]
    chances = {" 0": math.log(0.1), "1": math.log(0.2), "2": math.log(0.3), "3": math.log(0.35), "x": math.log(0.05)}
    tokens = [(part, chances if part == str(label) and content.index(part) else {part: 0.0}) for part in parts]
    assert label_probabilities(tokens) == pytest.approx([0.1, 0.2, 0.3, 0.35])


@given(st.lists(st.sampled_from([ABSTAINED, 0, 1, 2, 3]), min_size=5, max_size=5))
def test_stopping_early_never_changes_a_vote(grades: list[int]) -> None:
    early, all_ = Tally(5), Tally(5)
    for grade in grades:
        for tally in (early, all_):
            if tally is all_ or not tally.decided:
                tally.add(grade, [float(grade == g) for g in range(GRADES)], "")
    assert early.decided
    assert early.vote().grade == all_.vote().grade
    assert grades.count(early.vote().grade) == max(grades.count(grade) for grade in grades)
