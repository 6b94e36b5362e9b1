"""A team's own params.yaml beside what init would write: its fields stand, whatever it looks like."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serm.errors import UserError
from serm.founding.own import with_sections
from serm.settings import parse

OURS = """\
# head
stream:
  locale: "en"  # said
  shown: ["a", "b"]  # seen
relevance:
  base: "x"  # encoder
tests:
  draw: 50
"""
FIELDS = {
    "stream": ("locale", "shown", "clicked"),
    "relevance": ("base", "layers"),
    "tests": ("draw",),
    "mining": ("budget",),
}
VALUE = st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=3) | st.sampled_from(["a: b", "#x", "é"])
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        section: st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(fields, VALUE))
        for section, fields in FIELDS.items()
    },
)


@given(own=SECTIONS, flow=st.sampled_from([None, False]), indent=st.integers(2, 5))
def test_each_field_of_both_is_there_and_theirs_stand(
    own: dict[str, dict[str, object]], flow: bool | None, indent: int
) -> None:
    text = yaml.safe_dump(own, default_flow_style=flow, indent=indent, allow_unicode=True) if own else ""
    found = yaml.safe_load(with_sections(OURS, text or "{}", "own.yaml"))
    ours = yaml.safe_load(OURS)
    for section in {**own, **ours}:
        assert (found[section] or {}) == ours.get(section, {}) | (own.get(section) or {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("relevence: {}", "relevence: there is no such setting, but relevance."),
        ("training: {epoch: 2}", "training.epoch: there is no such setting, but epochs."),
        ("evaluation: {gate: {min_gains: 0.1}}", "evaluation.gate.min_gains: there is no such setting, but min_gain."),
        ("evaluation: {gate: {banana: 1}}", "evaluation.gate.banana: there is no such setting."),
    ],
)
def test_a_setting_that_is_none_is_told_with_the_one_that_may_be_meant(text: str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(f'cycle: {{start: "2026-01-01T00:00:00Z", end: "2026-01-02T00:00:00Z"}}\n{text}')
    assert str(raised.value) == f"params.yaml: {told}"


def test_comments_of_both_stay() -> None:
    text = with_sections(OURS, "# mine\nstream:  # of ours\n    # why\n    shown: [c]\n", "own.yaml")
    assert all(comment in text for comment in ("# head", "# said", "# mine", "# of ours", "# why", "# encoder"))
    assert "# seen" not in text
