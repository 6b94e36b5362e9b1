"""What the report makes of a history: marks and axes, rules in order, what controls explain, how numbers read."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
import report_evaluation
import report_history
from hypothesis import given

from serm.report import charts, comparison, controls, formats, loop, proof
from serm.workspace import history


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_history.write(tmp_path_factory.mktemp("report") / "shop")


def test_a_family_that_a_cycle_lacks_has_no_mark(workspace: Path) -> None:
    cycles = history.read_cycles(workspace)
    del cycles[1].summaries["evaluate"]["sets"]["rolling"]["served"]["all"]["family:Indic"]
    view = next(
        view for view in comparison.views(cycles) if (view.measure, view.test) == ("NDCG@10", "Rolling set, served")
    )
    marks = {panel.name: len(panel.challenger) for panel in view.grids[0].panels}
    assert marks == {"all": 3} | {f"family:{name}": 3 - (name == "Indic") for name in report_evaluation.FAMILIES}


def test_marks_stand_where_their_numbers_are(workspace: Path) -> None:
    for view in comparison.views(history.read_cycles(workspace)):
        for grid in view.grids:
            marks = [mark for panel in grid.panels for mark in panel.champion + panel.challenger]
            assert all(0 <= mark.top <= mark.y <= mark.bottom <= comparison.HEIGHT for mark in marks)
            values = [float(mark.says.split(": ")[1].split()[0]) for mark in marks]
            highest, lowest = values.index(max(values)), values.index(min(values))
            assert marks[highest].y < marks[lowest].y


def test_a_difference_is_better_or_worse_only_where_it_is_among_all_slices(workspace: Path) -> None:
    cycle = history.read_cycles(workspace)[0]
    for difference, p, tells in (
        (0.02, 0.04, "better"),
        (-0.02, 0.04, "worse"),
        (0.02, 0.06, "unclear"),
        (0.02, None, "unclear"),
    ):
        one = cycle.get("evaluate", "sets", "rolling", "served", "all", "all", "measures", "NDCG@10")
        one |= {"low": difference - 0.01, "high": difference + 0.01, "difference": difference, "p_holm": p}
        drawn = comparison.forest(cycle, ["all"])
        assert drawn is not None
        (_, cells), *_ = drawn.rows
        assert cells[0] is not None
        assert cells[0].tells == tells
        assert (cells[0].left > drawn.zero) == (difference > 0)


def test_a_cycle_says_how_much_of_the_gain_its_controls_explain(workspace: Path) -> None:
    cycle = history.read_cycles(workspace)[1]
    both = cycle.get("evaluate", "sets", "rolling", "served", "all", "all", "measures", "NDCG@10")
    both["difference"] = 0.02
    found = controls.controls(cycle)
    assert found is not None
    assert [row.name for row in found.rows] == ["champion", "challenger", "replay", "self-training"]
    assert "gain of +0.020" in found.sentence
    assert "replay explains +0.006 (30%), and over it the challenger gains +0.014" in found.sentence
    assert (
        "self-training explains nothing (it ends \N{MINUS SIGN}0.020 beside the champion, which is the harder peer)"
        in found.sentence
    )
    assert found.rows[2].gains[0] is not None
    assert found.rows[2].gains[0].middle > found.zero
    assert not found.absent
    cycle.get("evaluate", "controls", "self-training", "rolling", "served", "NDCG@10")["gain_high"] = 0.001
    unclear = controls.controls(cycle)
    assert unclear is not None
    assert "harder peer" not in unclear.sentence
    both["difference"] = -0.01
    lost = controls.controls(cycle)
    assert lost is not None
    assert "does not gain" in lost.sentence


def test_the_worst_rules_stand_first(workspace: Path) -> None:
    cycle = history.read_cycles(workspace)[2]
    for rule, result in ((2, "inconclusive"), (4, "failed"), (7, "error")):
        cycle.summaries["evaluate"]["gate"]["rules"][rule]["result"] = result
    found = proof.rules(cycle)
    assert [rule.result for rule in found] == ["error", "failed", "inconclusive", *["passed"] * 5]
    assert found[0].name == "served as computed"


def test_who_judged_the_test_sets_is_told_before_all_rules(workspace: Path) -> None:
    cycle = history.read_cycles(workspace)[2]
    evaluated = cycle.summaries["evaluate"]
    assert proof.test_sets(cycle) == []  # an evaluation of an older SERM
    rule = {"rule": "test_judgments", "result": "passed", "reason": "A panel.", "value": None, "limit": None}
    evaluated["gate"]["rules"] = [evaluated["gate"]["rules"][0] | {"result": "failed"}, rule | {"slice": None}]
    assert [one.name for one in proof.rules(cycle)] == ["who judged the test sets", "gain on the rolling set, served"]
    evaluated["tests"] = {"rolling": {"queries": {"0": 12, "3": 1800}, "pairs": {"human": 40, "panel": 3}}}
    assert proof.test_sets(cycle) == [
        "rolling set: 12 of cycle 0, 1,800 of cycle 3 queries; served pairs judged: 40 by people, 3 by a panel"
    ]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_an_axis_holds_its_values_between_round_ends(values: list[float]) -> None:
    drawn = charts.axis(values, 100, 0)
    assert drawn.low <= min(values) + 1e-6
    assert drawn.high >= max(values) - 1e-6
    assert 2 <= len(drawn.ticks) <= 7
    assert (drawn.ticks[0][0], drawn.ticks[-1][0]) == (100, 0)


def test_an_axis_by_hand() -> None:
    assert charts.axis([0.612, 0.788], 130, 10, ticks=4).ticks == [
        (130, "0.60"),
        (100, "0.65"),
        (70, "0.70"),
        (40, "0.75"),
        (10, "0.80"),
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.count(1234567), "1,234,567"),
        (formats.share(0.1234), "12.3 %"),
        (formats.share(0.0001), "< 0.1 %"),
        (formats.share(0), "0.0 %"),
        (formats.signed(-0.0123), "−0.012"),
        (formats.signed(-0.0001), "0.000"),
        (formats.points(0.168), "+16.8 points"),
        (formats.seconds(4.26), "4.3 s"),
        (formats.seconds(119.7), "2 min 00 s"),
        (formats.megabytes(1234.5), "1,234 MB"),
        (formats.count(None), formats.MISSING),
    ],
)
def test_how_numbers_are_written(written: str, expected: str) -> None:
    assert written.replace("\N{NO-BREAK SPACE}", " ") == expected


def test_the_loops_time_is_that_of_its_steps(workspace: Path) -> None:
    cycle = history.read_cycles(workspace)[0]
    costs = cycle.get("costs")
    of_steps = sum(figures["seconds"] for step, figures in costs.items() if step != "simulate")
    assert loop.cost(cycle)["seconds"] == pytest.approx(of_steps)


def test_which_version_of_the_frozen_set_decides_and_which_is_to_replace_it_is_told(workspace: Path) -> None:
    cycle = history.read_cycles(workspace)[2]
    of = {"queries": {"0": 12}, "pairs": {"human": 40}}
    version = {"version": 2, "since": "cycle-0003", "measured_beside_the_last": "cycle-0002"}
    cycle.summaries["evaluate"]["tests"] = {"frozen": of | {"version": version}, "next": of}
    frozen, following = proof.test_sets(cycle)
    assert frozen.startswith("frozen set (version 2, since cycle-0003): 12 of cycle 0 queries")
    assert following.endswith("40 by people; it replaces the frozen set after this cycle")
