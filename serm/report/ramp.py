"""A rollout as pictures: each metric's confidence sequence, the share and what was decided at each look, the groups.

It reads the record that ``serm rollout`` keeps (``rollout/<experiment>.json``), and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from serm.atomic import write_text
from serm.errors import UserError
from serm.escaping import asset, policy, templates
from serm.layout import ROLLOUTS
from serm.report import formats
from serm.report.charts import Axis, axis

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 330, 150, 46, 16, 22
#: Looks that are drawn and listed of one rollout; those that changed the traffic all are.
LOOKS = 150
_ROOM = "serm.report"


class _Stage(BaseModel):
    percent: int
    since: AwareDatetime


class _Finding(BaseModel):
    better: int = 1
    """1 where more is better, -1 where less is."""
    challenger: float
    control: float
    difference: float
    low: float | None = None
    high: float | None = None


class _Look(BaseModel):
    at: AwareDatetime
    action: str
    percent: int
    reasons: list[str] = Field(default_factory=list)
    users: list[tuple[int, int]] = Field(default_factory=list)
    findings: dict[str, Any] = Field(default_factory=dict)


class _Asked(BaseModel):
    primary: list[str]
    guardrails: dict[str, float]
    alpha: float
    sample_ratio_alpha: float


class Rollout(BaseModel):
    """What a page shows of a record; what else is in it stays there."""

    experiment: str
    note: str = ""
    outcome: str
    settings: _Asked
    stages: list[_Stage]
    decisions: list[_Look]


@dataclass(frozen=True)
class Line:
    """A look in a metric's chart: pixels, and what it says."""

    x: float
    y: float
    top: float
    bottom: float
    says: str


@dataclass(frozen=True)
class Chart:
    """A metric (or the groups' ratio) over the looks."""

    name: str
    role: str
    tells: str
    """``better``, ``worse`` or ``open``: the last look's interval against 0."""
    last: str
    vertical: Axis
    looks: list[Line]
    zero: float | None
    margin: float | None
    """Pixel of the loss that is still borne, or of the limit."""

    @property
    def band(self) -> str:
        """The outline of all intervals, as an SVG polygon's points."""
        there = [(one.x, one.top) for one in self.looks]
        return " ".join(f"{x},{y}" for x, y in [*there, *((one.x, one.bottom) for one in reversed(self.looks))])


@dataclass(frozen=True)
class Row:
    """A look as the table has it."""

    at: str
    share: int
    """In force when it was taken."""
    action: str
    to: int
    challenger: int
    control: int
    ratio_p: float | None
    reasons: list[str]


@dataclass(frozen=True)
class Picture:
    """A rollout for the page."""

    experiment: str
    note: str
    outcome: str
    began: str
    lasted: str
    users: int
    reasons: list[str]
    alpha: float
    looks: int
    left_out: int
    across: list[tuple[float, str]]
    """Ticks of the time, and ``unit``."""
    unit: str
    shares: str
    """The share's line, as a polyline's points."""
    share_axis: Axis
    marks: list[tuple[float, float, str, str]]
    """Pixel, pixel, action and words of each look."""
    stages: list[tuple[float, str]]
    metrics: list[Chart]
    ratio: Chart | None
    rows: list[Row]


def load(path: Path) -> Rollout:
    """Read what a page shows of a record.

    Raises:
        UserError: it is none.
    """
    try:
        return Rollout.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UserError(f"{path}: no rollout's record ({where}: {first['msg']}); bring an undamaged copy.") from error


def pictures(workspace: Path, most: int) -> list[Picture]:
    """Return the pictures of a workspace's rollouts, the latest first, at most so many.

    Raises:
        UserError: a record is damaged.
    """
    begun = [one for path in sorted((workspace / ROLLOUTS).glob("*.json")) if (one := load(path)).stages]
    return [picture(one) for one in sorted(begun, key=lambda one: one.stages[0].since, reverse=True)[:most]]


def page(record: Path, out: Path) -> Path:
    """Write the picture of one record as a page of its own, which asks nothing of the network.

    Raises:
        UserError: the record is damaged, or no step of its ramp has begun.
    """
    found = load(record)
    if not found.stages:
        raise UserError(f"{record}: no step of this ramp has begun; run `serm rollout start` again, which ends it.")
    environment = templates(_ROOM)
    environment.filters.update(formats.FILTERS)
    style = asset(_ROOM, "report.css")
    html = environment.get_template("rollout.html.jinja").render(
        one=picture(found), policy=policy(styles=[style]), style=Markup(style), ramp=SIZES
    )
    write_text(out, html)
    return out


SIZES = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "top": TOP, "bottom": HEIGHT - BOTTOM}


def picture(found: Rollout) -> Picture:
    """Return a rollout's picture; one that has begun."""
    looks = _kept(found.decisions)
    start = found.stages[0].since
    end = max([found.stages[-1].since, *(one.at for one in found.decisions)])
    unit, seconds = _unit((end - start).total_seconds())
    span = max((end - start).total_seconds() / seconds, 1e-6)
    across = replace(axis([0.0, span], LEFT, WIDTH - 6), high=span)

    def x(at: AwareDatetime) -> float:
        return across.at((at - start).total_seconds() / seconds)

    shares = axis([0, *(one.percent for one in found.stages)], HEIGHT - BOTTOM, TOP)
    steps = [(x(one.since), shares.at(one.percent)) for one in found.stages]
    line = [steps[0]]
    for (_, before), (at, share) in pairwise(steps):
        line += [(at, before), (at, share)]
    line.append((x(end), steps[-1][1]))
    told = {name for one in looks for name in one.findings if _finding(one, name)}
    last = found.decisions[-1] if found.decisions else None
    total = _total(last) if last else (0, 0)
    return Picture(
        experiment=found.experiment,
        note=found.note,
        outcome=found.outcome,
        began=f"{start:%Y-%m-%d %H:%M}",
        lasted=f"{(end - start).total_seconds() / seconds:.1f} {unit}",
        users=total[0],
        reasons=last.reasons if last else [],
        alpha=found.settings.alpha,
        looks=len(found.decisions),
        left_out=len(found.decisions) - len(looks),
        across=across.ticks,
        unit=unit,
        shares=" ".join(f"{a},{b}" for a, b in line),
        share_axis=shares,
        marks=[
            (x(one.at), shares.at(one.percent), one.action, f"{one.at:%Y-%m-%d %H:%M}: {_words(one.action)}")
            for one in looks
        ],
        stages=[(x(one.since), f"{one.percent} %") for one in found.stages],
        metrics=[chart for name in _order(found.settings, told) if (chart := _chart(name, looks, found.settings, x))],
        ratio=_ratio(looks, found.settings.sample_ratio_alpha, x),
        rows=[
            Row(
                f"{one.at:%Y-%m-%d %H:%M}",
                _share(found, one),
                one.action,
                one.percent,
                *_total(one),
                _number(one.findings.get("sample_ratio_p")),
                one.reasons,
            )
            for one in reversed(looks)
        ],
    )


def _kept(looks: Sequence[_Look]) -> list[_Look]:
    """Return at most about ``LOOKS`` of them: all that did something, the last, and every so many of the others."""
    every = math.ceil(len(looks) / LOOKS) or 1
    last = len(looks) - 1
    return [one for n, one in enumerate(looks) if one.action != "hold" or n % every == 0 or n == last]


def _share(found: Rollout, look: _Look) -> int:
    return next((one.percent for one in reversed(found.stages) if one.since < look.at), found.stages[0].percent)


def _total(look: _Look) -> tuple[int, int]:
    return sum(a for a, _ in look.users), sum(b for _, b in look.users)


def _unit(span: float) -> tuple[str, float]:
    return next(
        ((name, size) for name, size in (("days", 86_400.0), ("hours", 3_600.0)) if span >= 2 * size), ("minutes", 60.0)
    )


def _words(action: str) -> str:
    return action.replace("_", " ")


def _order(asked: _Asked, told: Iterable[str]) -> list[str]:
    first = [*asked.primary, *asked.guardrails]
    return [*(name for name in first if name in told), *sorted(set(told) - set(first))]


def _finding(look: _Look, name: str) -> _Finding | None:
    try:
        found = _Finding.model_validate(look.findings.get(name))
    except ValidationError:
        return None
    return found if found.control else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _chart(name: str, looks: Sequence[_Look], asked: _Asked, x: Callable[[AwareDatetime], float]) -> Chart | None:
    """Return a metric's chart, in percent of the control's value; looks that could not bound it are left out."""
    seen = [
        (look, found, 100 / abs(found.control))
        for look in looks
        if (found := _finding(look, name)) and found.low is not None and found.high is not None
    ]
    if not seen:
        return None
    margin = asked.guardrails.get(name)
    better = seen[-1][1].better
    borne = None if margin is None else -better * 100 * margin
    bounds = [(found.low * scale, found.high * scale) for _, found, scale in seen if found.low is not None]  # type: ignore[operator]
    # The first looks know little: their intervals are cut where they would press all others flat.
    reach = 2 * (bounds[-1][1] - bounds[-1][0])
    middle = [found.difference * scale for _, found, scale in seen]
    low = max(min(b[0] for b in bounds), min(*middle, bounds[-1][0]) - reach)
    high = min(max(b[1] for b in bounds), max(*middle, bounds[-1][1]) + reach)
    vertical = axis([low, high, 0.0, *([borne] if borne is not None else [])], HEIGHT - BOTTOM, TOP)

    def y(value: float) -> float:
        return vertical.at(min(max(value, vertical.low), vertical.high))

    lines = [
        Line(x(look.at), y(mid), y(top), y(bottom), f"{look.at:%Y-%m-%d %H:%M}: {_percent(mid, bottom, top)}")
        for (look, _, _), mid, (bottom, top) in zip(seen, middle, bounds, strict=True)
    ]
    role = "primary" if name in asked.primary else "signal" if margin is None else f"guardrail, {100 * margin:g} %"
    best, worst = sorted(bounds[-1], key=lambda bound: -better * bound)
    tells = "better" if better * worst > 0 else "worse" if better * best < 0 else "open"
    return Chart(
        name,
        role,
        tells,
        _percent(middle[-1], *bounds[-1]),
        vertical,
        lines,
        vertical.at(0.0),
        None if borne is None else vertical.at(borne),
    )


def _percent(middle: float, low: float, high: float) -> str:
    return f"{formats.signed(middle, 1)} % ({formats.signed(low, 1)} to {formats.signed(high, 1)})"


def _ratio(looks: Sequence[_Look], limit: float, x: Callable[[AwareDatetime], float]) -> Chart | None:
    """Return the p of the groups' sizes, in powers of ten."""
    seen = [(look, p) for look in looks if (p := _number(look.findings.get("sample_ratio_p"))) is not None]
    if not seen:
        return None
    powers = [max(-12.0, math.log10(p)) if p > 0 else -12.0 for _, p in seen]
    vertical = axis([0.0, math.log10(limit), *powers], HEIGHT - BOTTOM, TOP)
    lines = [
        Line(x(look.at), vertical.at(power), 0.0, 0.0, f"{look.at:%Y-%m-%d %H:%M}: p {p:.2g}")
        for (look, p), power in zip(seen, powers, strict=True)
    ]
    broken = seen[-1][1] < limit
    name = "sample ratio"
    return Chart(
        name,
        f"p, as a power of ten; below {limit:g} nothing is read",
        "worse" if broken else "open",
        f"p {seen[-1][1]:.2g}",
        vertical,
        lines,
        None,
        vertical.at(math.log10(limit)),
    )
