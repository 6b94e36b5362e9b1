"""The ramp's picture: what the record holds is on it, whatever text is in the record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import report_history

from serm import report
from serm.errors import UserError
from serm.report import ramp
from serm.rollout.record import Decided, Record, Stage, save
from serm.settings import RolloutSettings

EVIL = '<script>alert("x")</script>'


def found(middle: float, width: float, better: int = 1) -> dict[str, Any]:
    values = {"challenger": 0.4 + middle, "control": 0.4, "difference": middle, "explained": 0.0, "users": [9, 9]}
    return {"better": better, **values, "low": middle - width, "high": middle + width}


def record(looks: int = 5, **more: Any) -> Record:
    """A rollout of a look a day that was promoted; its last reason is hostile."""
    days = [f"2026-03-{day:02d}T00:00:00Z" for day in range(1, 29)]
    decisions = [
        {
            "at": days[1 + day % 27],
            "action": "promote" if day == looks - 1 else "hold" if day % 2 else "advance",
            "percent": 100 if day == looks - 1 else 5,
            "reasons": [f"satisfied_clicks is better {EVIL}"],
            "users": [[100 * (day + 1), 101 * (day + 1)]],
            "findings": {
                "sample_ratio_p": 0.4,
                "satisfied_clicks": found(0.02, 0.08 / (day + 1) if day else 0.4),
                "abandonment": found(-0.004, 0.02 / (day + 1), -1),
                "negative_feedback": {"challenger": 0.0, "control": 0.0, "difference": 0.0, "low": None, "high": None},
                EVIL: found(0.0, 0.1),
            },
        }
        for day in range(looks)
    ]
    return Record(
        experiment="cycle-0003",
        outcome="promoted",
        settings=RolloutSettings(),
        stages=tuple(Stage.model_validate({"percent": p, "since": at}) for p, at in ((1, days[0]), (100, days[5]))),
        decisions=tuple(map(Decided.model_validate, decisions)),
        **more,
    )


def written(tmp_path: Path, one: Record) -> str:
    save(tmp_path / "rollout" / "cycle-0003.json", one)
    return ramp.page(tmp_path / "rollout" / "cycle-0003.json", tmp_path / "ramp.html").read_text(encoding="utf-8")


def test_metrics_looks_and_groups_of_the_record_are_on_the_page_and_no_text_of_it_is_markup(tmp_path: Path) -> None:
    html = written(tmp_path, record())
    assert "promoted" in html
    assert re.findall(r"<figcaption>([\w ]+) <small>", html)[:2] == ["satisfied clicks", "abandonment"]
    assert "negative feedback <small>" not in html  # nobody gave any: there is no interval to draw
    assert "+5.0 % (+1.0 to +9.0)" in html
    assert "500" in html
    assert "505" in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "default-src &#39;none&#39;" in html


@pytest.mark.parametrize(
    ("outcome", "said", "champion"),
    [
        ("promoted", "passed the gate, and users promoted it.", "promoted"),
        ("rolled_back", "passed the gate; users did not promote it, and the champion stays.", "stays"),
        ("inconclusive", "passed the gate; users did not promote it, and the champion stays.", "stays"),
        ("running", "passed the gate, and users are deciding on it.", "stays"),
    ],
)
def test_a_report_says_what_users_decided_and_who_serves_them(
    outcome: str, said: str, champion: str, tmp_path: Path
) -> None:
    shop = report_history.write(tmp_path / "shop")
    save(shop / "rollout" / "cycle-0003.json", record().with_(outcome=outcome))
    html = report.build(shop, tmp_path / "out").read_text(encoding="utf-8")
    assert said in html
    assert re.findall(r'<li class="station champion">.*?"figure">(\w+)<', html, re.DOTALL) == [champion]
    assert ("The challenger becomes the next champion." in html.split('id="cycle-0002-gate"')[0]) == (
        champion == "promoted"
    )


def test_a_charts_intervals_lie_where_their_values_do_and_the_first_wide_ones_are_cut(tmp_path: Path) -> None:
    save(tmp_path / "rollout" / "cycle-0003.json", record())
    (picture,) = ramp.pictures(tmp_path, 9)
    chart = next(one for one in picture.metrics if one.name == "satisfied_clicks")
    last = chart.looks[-1]
    assert (last.top, last.y, last.bottom) == tuple(chart.vertical.at(value) for value in (9.0, 5.0, 1.0))
    assert (chart.tells, chart.role, chart.zero) == ("better", "primary", chart.vertical.at(0))
    assert chart.looks[0].bottom == chart.vertical.at(chart.vertical.low)
    guardrail = next(one for one in picture.metrics if one.name == "abandonment")
    assert (guardrail.role, guardrail.margin) == ("guardrail, 2 %", guardrail.vertical.at(2.0))
    assert guardrail.tells == "open"  # less abandonment is better, and 0 lies within
    assert [row.share for row in picture.rows] == [1, 1, 1, 1, 1]
    assert picture.ratio is not None
    assert picture.ratio.tells == "open"


def test_a_record_of_thousands_of_looks_gives_a_page_of_bounded_size(tmp_path: Path) -> None:
    held = [one.model_copy(update={"action": "hold"}) for one in record(4000).decisions]
    html = written(tmp_path, record().with_(decisions=tuple(held)))
    assert len(html) < 1_000_000
    assert "that held are left out" in html


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    save(tmp_path / "rollout" / "cycle-0003.json", record())
    path = tmp_path / "rollout" / "cycle-0003.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stages": "none"}))
    with pytest.raises(UserError, match=r"no rollout's record \(stages"):
        ramp.pictures(tmp_path, 9)
    save(path, record().with_(stages=()))
    assert ramp.pictures(tmp_path, 9) == []
    with pytest.raises(UserError, match="no step of this ramp has begun"):
        ramp.page(path, tmp_path / "x.html")
