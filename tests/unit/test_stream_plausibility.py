"""A window that can hardly be right is said, with the setting that is likely to be wrong; one that can is not."""

from __future__ import annotations

import pytest

from serm.stream.plausibility import warnings
from serm.stream.ubi import Told

GOOD = {"shown": 1000, "clicked": 120, "on_first": 200, "on_second": 200, "first_user": "a", "last_user": "z"}
TOLD = Told(lines={}, returned=0, unowned=0, other_actions=('"tap"',))


@pytest.mark.parametrize(
    ("changed", "of_ubi", "said"),
    [
        ({}, False, []),
        ({}, True, []),
        ({"on_first": 100}, True, []),
        ({"shown": 0, "clicked": 0, "first_user": None, "last_user": None}, False, ["no impression of the window"]),
        ({"clicked": None}, False, ["nothing was clicked"]),
        (
            {"clicked": 0},
            True,
            ['nothing was clicked: name the log\'s clicks in stream.clicked (its other actions: "tap")'],
        ),
        ({"clicked": 1000}, True, ["stream.shown does not name it"]),
        ({"on_first": 99}, True, ["set stream.first_ordinal to 1"]),
        ({"on_first": 0, "on_second": 0}, False, ["positions count from 1"]),
        ({"last_user": "a"}, False, ["all impressions are one user's"]),
    ],
)
def test_each_sign_of_a_log_read_amiss_is_said_and_nothing_else(
    changed: dict[str, object], of_ubi: bool, said: list[str]
) -> None:
    found = warnings({**GOOD, **changed}, TOLD if of_ubi else None)
    assert len(found) == len(said)
    assert all(words in one for words, one in zip(said, found, strict=True))


def test_queries_whose_results_nobody_is_known_to_have_seen_are_counted() -> None:
    (said,) = warnings(GOOD, Told(lines={}, returned=9, unowned=1234, other_actions=()))
    assert said.startswith("1,234 queries tell what they returned")
