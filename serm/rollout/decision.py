"""What the users' numbers decide: a pure function of a look at them, the ramp's state and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from serm.rollout.estimates import Estimate
from serm.rollout.health import Health, failing
from serm.rollout.metrics import METRICS
from serm.rollout.sequence import benjamini_hochberg, holm, sample_ratio_p
from serm.rollout.split import Variant
from serm.settings import RolloutSettings

Action = Literal["advance", "hold", "promote", "roll_back", "inconclusive", "error"]
PATIENCE = timedelta(minutes=30)
"""How long a challenger may get no request, or not be ready, before it goes back: a share takes minutes to get around,
and a pod to start."""
_DUE = 5
"""A fifth of what the champion's requests make due is taken for it: an experiment of a layer's part has fewer users
than its percentage says."""
ENDS: dict[Action, int] = {"promote": 100, "roll_back": 0, "inconclusive": 0, "error": 0}
"""The actions that end a rollout, and the challenger's percentage from then on."""


@dataclass(frozen=True)
class Look:
    """What is known at one moment of a rollout."""

    at: datetime
    percent: int
    """In force."""
    started: datetime
    """When the first step began."""
    since: datetime
    """When the step in force began."""
    users: Sequence[tuple[int, int]]
    """Users of challenger and control by the step that was in force when they were first seen."""
    crossed: int
    """Users seen in both groups; they are counted in neither."""
    estimates: Mapping[str, Estimate]
    health: Mapping[Variant, Health] | None = None
    """None: nobody measures it, or it could not be read; holds, unless the settings call it unwatched."""
    unread: tuple[str, ...] = ()
    """What could not be read, and why: it holds."""
    segments: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Locale, or kind of query -> its estimates."""
    unready_since: datetime | None = None
    """Since when the challenger's server is said not to be ready, at each look; None: it is, or nobody says."""
    looks: int = 0
    """Looks before, in the step in force."""
    recent: Mapping[Variant, Health] | None = None
    """Since the last of them."""
    before: Health | None = None
    """How the champion's server fared in the last step: what the challenger's is held against once it has all users."""

    @property
    def total(self) -> tuple[int, int]:
        """All users of challenger and control."""
        return sum(one[0] for one in self.users), sum(one[1] for one in self.users)


@dataclass(frozen=True)
class Decision:
    """What to do, why, and what it rests on."""

    action: Action
    percent: int
    """The challenger's percentage from now on."""
    reasons: tuple[str, ...]
    findings: Mapping[str, Any] = field(default_factory=dict)
    """Metric -> its values, difference, interval and the p of what was asked of it; and ``sample_ratio_p``."""


def decide(look: Look, settings: RolloutSettings) -> Decision:
    """Return the decision of a look; the worst that anything says counts.

    Groups that are not as large as asked for, or users in both, are an error: no metric is read, and the challenger
    goes back to 0. It goes back as well where it is confidently worse on a primary metric, by more than its margin
    on a guardrail, or its server fails, is slow, or takes no request where many were due. A signal that is confidently
    worse holds, and so does a locale or a kind of query (head, torso, tail, new) in which a primary metric is. A step
    that has lasted ``bake_hours`` and brought ``min_users`` users to each group gives way to the next; at the last one
    a primary metric that is confidently better promotes, if every guardrail's loss is confidently within its margin.
    Past ``max_days`` the champion stays. What cannot be read never promotes, the servers' health included.

    Where its servers are watched, one that users decided for has all of them before it is promoted. Nobody is left to
    compare them with, so only its servers, held against the champion's in the last step, take it back then.
    """
    if look.percent == 100:
        return _watched(look, settings)
    ratio_p = _sample_ratio_p(look)
    findings: dict[str, Any] = {"sample_ratio_p": ratio_p}
    if broken := _broken(look, ratio_p, settings):
        return Decision("error", 0, tuple(broken), findings)
    readable = min(look.total) >= settings.min_users
    tests = _Tests(look, settings) if readable else None
    if tests is not None:
        findings |= tests.findings
    if back := [*_dead(look, settings), *_unhealthy(look, settings), *(tests.harmful() if tests else [])]:
        return Decision("roll_back", 0, tuple(back), findings)
    late = look.at - look.started >= timedelta(days=settings.max_days)
    waits = [*look.unread, *_waits(look, settings)]
    if tests is not None:
        waits += [*tests.unclear(), *_worse_segments(look, settings, findings)]
    last = look.percent >= settings.steps[-1]
    if not waits and not last:
        to = next(step for step in settings.steps if step > look.percent)
        return Decision("inconclusive" if late else "advance", 0 if late else to, (_step_is_done(look),), findings)
    if not waits and tests is not None:
        open_ends = tests.open_ends()
        if not open_ends:
            return Decision("advance" if settings.watched else "promote", 100, tuple(tests.better()), findings)
        waits = open_ends
    if late:
        return Decision(
            "inconclusive", 0, (f"{settings.max_days:g} days are over: the champion stays", *waits), findings
        )
    return Decision("hold", look.percent, tuple(waits), findings)


def _watched(look: Look, settings: RolloutSettings) -> Decision:
    """Return the decision of a look at a challenger that has all users."""
    dead, before = _dead(look, settings), look.before
    if before is not None:
        against = [one and {**one, "champion": before} for one in (look.health, look.recent)]
        look = replace(look, health=against[0], recent=against[1])
    if back := [*dead, *_unhealthy(look, settings)]:
        return Decision("roll_back", 0, tuple(back))
    days = (look.at - look.since) / timedelta(days=1)
    waits = [*look.unread, *_unheard(look, settings)]
    if days < settings.watch_days:
        waits.append(f"all users have had it for {days:.1f} of {settings.watch_days:g} days")
    if waits:
        return Decision("hold", 100, tuple(waits))
    return Decision("promote", 100, (f"all users have had it for {days:.1f} days, and its servers fare well",))


def _sample_ratio_p(look: Look) -> float | None:
    """Return the p of the groups' sizes, of all steps and of the last, corrected for two; None without users.

    Both groups have the same share at every step up to 50 %.
    """
    counts = [pair for pair in (look.total, look.users[-1] if look.users else (0, 0)) if sum(pair)]
    return min(1.0, 2 * min(sample_ratio_p(pair, (1.0, 1.0)) for pair in counts)) if counts else None


def _broken(look: Look, ratio_p: float | None, settings: RolloutSettings) -> list[str]:
    found = []
    challenger, control = look.total
    if ratio_p is not None and ratio_p < settings.sample_ratio_alpha:
        found.append(
            f"{challenger} users in the challenger's group and {control} in its control (p {ratio_p:.2g}), which are "
            "asked for alike: users are lost or counted twice, and no metric is read"
        )
    seen = challenger + control + look.crossed
    if seen >= settings.min_users and look.crossed > settings.max_crossed * seen:
        found.append(f"{look.crossed} of {seen} users were seen in both groups: the split does not hold them apart")
    return found


def _dead(look: Look, settings: RolloutSettings) -> list[str]:
    """Return that the challenger's server gets nothing: its users are served by another one, or by none."""
    if look.unready_since is not None and look.at - look.unready_since >= PATIENCE:
        return [f"the challenger's server has not been ready since {look.unready_since:%Y-%m-%d %H:%M} UTC"]
    if look.health is None or look.health["challenger"].requests or look.at - look.since < PATIENCE:
        return []
    champion = look.health["champion"].requests
    due = max(champion * look.percent // max(100 - look.percent, 1) // _DUE, look.users[-1][0] if look.users else 0)
    if min(champion, due) < settings.min_requests:
        return []
    return [
        f"the challenger's server has taken no request at {look.percent} %, where {due} or more were due and the "
        f"champion's took {champion}: it is down, its users are sent elsewhere, or rollout.prometheus asks for another"
    ]


def _unhealthy(look: Look, settings: RolloutSettings) -> list[str]:
    """Return what fails or is slow in this step; or since the last look, which the good weeks before must not hide.

    Each look tests its own requests anew, so its alpha falls: all of them together have ``alpha``.
    """
    if look.health is not None and (found := failing(look.health, settings, settings.planned_users, settings.alpha)):
        return found
    if look.recent is None:
        return []
    falling = settings.alpha / ((look.looks + 1) * (look.looks + 2))
    return [f"since the last look, {one}" for one in failing(look.recent, settings, None, falling)]


def _waits(look: Look, settings: RolloutSettings) -> list[str]:
    found = []
    lasted = look.at - look.since
    if lasted < timedelta(hours=settings.bake_hours):
        found.append(f"this step has lasted {lasted.total_seconds() / 3600:.1f} of {settings.bake_hours:g} hours")
    here = min(look.users[-1]) if look.users else 0
    if here < settings.min_users:
        found.append(f"this step has brought {here} of {settings.min_users} users to the smaller group")
    return found + _unheard(look, settings)


def _unheard(look: Look, settings: RolloutSettings) -> list[str]:
    """Return that too little is known of the servers' health."""
    asked = min(one.requests for one in look.health.values()) if look.health is not None else settings.min_requests
    if asked >= settings.min_requests:
        return _unknown(look, settings)
    told = f"a model's server has taken {asked} of the {settings.min_requests} requests that tell its health"
    return [told, *_unknown(look, settings)]


def _unknown(look: Look, settings: RolloutSettings) -> list[str]:
    """Return that something of the servers' health is not known, though the settings do not call it unwatched."""
    of = look.health
    known = {"errors": of is not None, "latency": False}
    if of is not None:  # a challenger's percentile beyond all bounds is known to be too long
        known["latency"] = of["champion"].p95_ms is not None and bool(
            of["challenger"].p95_ms or of["challenger"].within
        )
    elif look.unread:
        return []  # which says itself why it holds
    missing = [name for name, is_known in known.items() if not (is_known or name in settings.unwatched)]
    if not missing:
        return []
    return [
        f"nothing is known of the servers' {' and '.join(missing)}: set rollout.prometheus, or list them in "
        "rollout.unwatched, before the next rollout starts"
    ]


def _worse_segments(look: Look, settings: RolloutSettings, findings: dict[str, Any]) -> list[str]:
    """Return the segments in which a primary metric is confidently worse, and note all of them in ``findings``."""
    p: dict[str, float] = {}
    for segment, estimates in look.segments.items():
        for name in (one for one in settings.primary if one in estimates):
            p[f"{name} in {segment}"] = estimates[name].p(0.0, -METRICS[name].better, settings.planned_users)
    adjusted = benjamini_hochberg(p)
    if adjusted:
        findings["p_worse_by_segment"] = adjusted
    return [
        f"{what} is confidently worse (p {value:.2g} among {len(p)} segments): for a person to look"
        for what, value in adjusted.items()
        if value <= settings.alpha
    ]


def _step_is_done(look: Look) -> str:
    challenger, control = look.users[-1]
    return f"{challenger} and {control} users first seen at {look.percent} %, and nothing speaks against more"


class _Tests:
    """All tests of a look, at the level alpha over its looks and metrics together."""

    def __init__(self, look: Look, settings: RolloutSettings) -> None:
        self._estimates = look.estimates
        self._settings = settings
        self._margins: dict[str, float] = {str(name): margin for name, margin in settings.guardrails.items()}
        planned = settings.planned_users
        worse: dict[str, float] = {}
        within: dict[str, float] = {}
        gain: dict[str, float] = {}
        decline: dict[str, float] = {}
        for name, one in look.estimates.items():
            better = METRICS[name].better
            if name in self._margins:
                floor = -better * self._margins[name] * abs(one.control)
                worse[name] = one.p(floor, -better, planned)
                within[name] = one.p(floor, better, planned)
            elif name in settings.primary:
                worse[name] = one.p(0.0, -better, planned)
                gain[name] = one.p(0.0, better, planned)
            else:
                decline[name] = one.p(0.0, -better, planned)
        self._worse, self._gain, self._decline, self._within = holm(worse), holm(gain), holm(decline), within
        self.findings = {name: self._finding(name) for name in look.estimates}

    def harmful(self) -> list[str]:
        """Return what rolls back."""
        return [self._says(name, "worse", p) for name, p in self._worse.items() if p <= self._settings.alpha]

    def unclear(self) -> list[str]:
        """Return what holds: signals that are worse."""
        return [
            f"{self._says(name, 'worse', p)}: a signal, for a person to look"
            for name, p in self._decline.items()
            if p <= self._settings.alpha
        ]

    def better(self) -> list[str]:
        """Return what speaks for the challenger."""
        return [self._says(name, "better", p) for name, p in self._gain.items() if p <= self._settings.alpha]

    def open_ends(self) -> list[str]:
        """Return what is still to be shown before the challenger may be promoted."""
        settings = self._settings
        unread = [name for name in (*settings.primary, *settings.guardrails) if name not in self._estimates]
        found = [f"{name} cannot be read yet" for name in unread]
        if not self.better():
            found.append(f"no primary metric ({', '.join(settings.primary)}) is confidently better yet")
        return found + [self._open(name) for name, p in self._within.items() if p > settings.alpha]

    def _open(self, name: str) -> str:
        if self._estimates[name].variance <= 0:
            return f"{name} is the same for all users; if the log does not have it, take it out of rollout.guardrails"
        return f"{name}: a loss of more than {self._margins[name]:.1%} is not ruled out yet"

    def _says(self, name: str, how: str, p: float) -> str:
        one = self._estimates[name]
        low, high = self._relative(one)
        margin = self._margins.get(name)
        beyond = "" if margin is None else f" by more than the {margin:.1%} that are borne"
        return (
            f"{name} is confidently {how}{beyond}: {one.challenger:.4f} against {one.control:.4f} "
            f"({low:+.2%} to {high:+.2%}, p {p:.2g})"
        )

    def _relative(self, one: Estimate) -> tuple[float, float]:
        interval = one.interval(self._settings.alpha, self._settings.planned_users)
        scale = abs(one.control) or 1.0
        return interval.low / scale, interval.high / scale

    def _finding(self, name: str) -> dict[str, Any]:
        one = self._estimates[name]
        interval = one.interval(self._settings.alpha, self._settings.planned_users)
        known = {
            "p_worse": {**self._worse, **self._decline}.get(name),
            "p_better": self._gain.get(name),
            "p_within_margin": self._within.get(name),
        }
        bounded = one.variance > 0
        return {
            "better": METRICS[name].better,
            "challenger": one.challenger,
            "control": one.control,
            "difference": one.difference,
            "low": interval.low if bounded else None,
            "high": interval.high if bounded else None,
            "explained": one.explained,
            "users": list(one.users),
            **{key: p for key, p in known.items() if p is not None},
        }
