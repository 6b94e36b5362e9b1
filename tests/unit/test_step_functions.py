"""Each step's function takes what the table of the steps says; to ask it, all that a cycle runs is imported."""

from __future__ import annotations

import inspect

import pytest

import serm.training  # noqa: F401  (so that `make quick`, which imports no torch, leaves this file out)
from serm import layout
from serm.steps import TABLE, Step


@pytest.mark.parametrize("step", TABLE, ids=lambda step: step.name)
def test_the_function_takes_what_the_table_says_in_its_order(step: Step) -> None:
    if step.writes:
        expected = [*(one.name for one in step.reads), "out", "settings", *(["kept"] if step.resumes else [])]
        assert step.writes.path == layout.CYCLE / step.name
    else:
        expected = ["repository", "outputs", "settings", "run"]
    assert list(inspect.signature(step.load()).parameters) == expected
