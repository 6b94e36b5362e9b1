"""What the behaviour tests count, on two windows small enough to know every number."""

from __future__ import annotations

import pyarrow as pa
import pytest

from serm.contracts import SAMPLES
from serm.drift.behaviour import Behaviour, script
from serm.drift.decision import DriftTest
from serm.drift.permutation import Permutations
from serm.drift.sample import together
from serm.settings import DriftSettings

#: A search: user, locale, query, and for each of its positions whether it was clicked.
Search = tuple[str, str, str, list[bool]]


def rows(cycle: int, searches: list[Search], score: float | None) -> pa.Table:
    found = [
        {"cycle": cycle, "user_id": user, "query_id": f"{cycle}-{number}", "locale": locale, "query": query}
        | {"position": position, "clicked": clicked, "score": score, "model_version": "m"}
        for number, (user, locale, query, clicks) in enumerate(searches)
        for position, clicked in enumerate(clicks, start=1)
    ]
    return pa.Table.from_pylist(found, SAMPLES)


def found_in(
    before: list[Search], now: list[Search], scores: tuple[float | None, float | None]
) -> dict[str, DriftTest]:
    windows = together([rows(0, before, scores[0])], rows(1, now, scores[1]))
    found = Behaviour(windows, Permutations(windows.window, 99, seed=0), DriftSettings()).tests()
    return {test.name: test for test in found}


BEFORE: list[Search] = [(f"a{n}", "de", "rote lampe", [True, False]) for n in range(4)]
NOW: list[Search] = [
    ("b0", "de", "rote lampe", [True, False]),
    ("b1", "de", "rote vase", [False, False]),
    ("b2", "ru", "лампа", [False, False]),
    ("b3", "ru", "лампа", [False, True]),
]


def test_each_test_counts_what_its_name_says() -> None:
    found = found_in(BEFORE, NOW, (1.0, 2.0))
    values = {name: test.value for name, test in found.items()}
    assert values["locale mix"] == pytest.approx(0.5)
    assert values["new locales"] == pytest.approx(0.5)
    assert values["scripts"] == pytest.approx(10 / (9 + 8 + 10))  # letters: 9 and 8 Latin, 2 x 5 Cyrillic
    assert values["new words"] == pytest.approx(3 / 6)  # vase, лампа, лампа, of six words
    assert values["new queries"] == pytest.approx(3 / 4)
    assert values["scores"] == pytest.approx(1.0)
    assert values["clicks a search"] == pytest.approx(0.5)  # from 1 to 0.5
    assert values["abandonment"] == pytest.approx(0.5)
    assert "from 100.0% to 50.0%" in found["locale mix"].finding
    assert found["new locales"].finding.endswith(": ru")
    assert "from 1.00 to 2.00" in found["scores"].finding
    assert "from 100.0% to 25.0%" in found["click rate by position"].finding


def test_equal_windows_differ_in_nothing() -> None:
    found = found_in(BEFORE, [(f"b{n}", *of[1:]) for n, of in enumerate(BEFORE)], (1.0, 1.0))
    assert {name: test.value for name, test in found.items()} == dict.fromkeys(found, 0.0)
    assert {test.p for test in found.values()} == {1.0}


def test_without_scores_they_are_not_tested() -> None:
    found = found_in(BEFORE, NOW, (None, 1.0))["scores"]
    assert (found.decision, found.value) == ("not tested", None)


@pytest.mark.parametrize(("letter", "name"), [("a", "Latin"), ("л", "Cyrillic"), ("猫", "Cjk"), ("ね", "Hiragana")])
def test_a_letters_script_is_unicodes(letter: str, name: str) -> None:
    assert script(letter) == name
