"""The section ``rollout`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from serm.settings.section import Amount, Count, Positive, RegisteredName, Section, Share

Metric = Literal[
    "click_through",
    "satisfied_clicks",
    "abandonment",
    "change_query",
    "negative_feedback",
    "first_click",
    "time_to_click",
    "sessions",
    "retention_1",
    "retention_7",
    "retention_14",
]
"""As ``serm.rollout.metrics`` computes them."""
Probability = Annotated[float, Field(gt=0, lt=0.5)]
Percent = Annotated[int, Field(ge=1, le=50)]
Margin = Annotated[float, Field(gt=0, le=1)]


class ByVariant(Section):
    """A query for each model, where no text in the place of ``{variant}`` makes both of one."""

    champion: str
    """That of the champion's server."""
    challenger: str
    """That of the challenger's."""


class PrometheusSettings(Section):
    """Where the servers' health is asked for. In each query ``{variant}`` becomes champion or challenger,
    ``{experiment}`` the rollout's name, and ``{window}`` the time since the step in force began, such as ``86400s``."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    """Of the server, without ``/api``."""
    requests: str | ByVariant
    """PromQL: one number, the requests that the variant's server took."""
    errors: str | ByVariant
    """PromQL: one number, those that failed; no number is none."""
    latency: str | ByVariant
    """PromQL: a histogram of its seconds, such as ``sum by (le) (increase(NAME_bucket[{window}]))``."""
    timeout_seconds: Positive = 10.0
    """Of one query."""


class RolloutSettings(Section):
    """The ramp of a challenger that passed the gate, and what its users decide."""

    required: bool = False
    """Whether ``serm advance`` waits for users: a challenger that passed the gate becomes the champion only with a
    record of a rollout of that very model which promoted it. Without it one that had no rollout becomes it too."""
    steps: Annotated[tuple[Percent, ...], Field(min_length=1)] = (1, 5, 10, 25, 50)
    """Percent of the users who see the challenger, step by step. At 50 the control is all the others, so a higher step
    would compare less; promotion goes to 100."""
    bake_hours: Amount = 24.0
    """A step lasts at least this long."""
    min_users: Count = 500
    """Users that each of the two groups needs before a metric is read; below, intervals of means are not to be
    trusted."""
    max_days: Positive = 28.0
    """After so many days without a decision the champion stays (inconclusive)."""
    watch_days: Amount = 2.0
    """After users have decided for the challenger it has all of them, and so long its servers' errors and latency are
    compared with those of the champion's in the last step: harm takes it back, none promotes it. 0: it is promoted at
    once, as where ``unwatched`` names both."""
    primary: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("satisfied_clicks",)
    """One of them confidently better promotes; one confidently worse rolls back."""
    guardrails: dict[Metric, Margin] = Field(
        default_factory=lambda: dict[Metric, float](
            {"abandonment": 0.02, "change_query": 0.03, "negative_feedback": 0.2}
        )
    )
    """Metric -> the loss that is still borne, as a share of the control's value. A confidently greater one rolls back;
    none promotes before the loss is confidently smaller."""
    signals: tuple[Metric, ...] = ("click_through", "sessions")
    """One of them confidently worse holds the ramp where it is, for a person to look."""
    alpha: Probability = 0.05
    """Chance that a challenger that is no better is promoted, at all looks together; and again that one that is no
    worse is rolled back by its metrics."""
    planned_users: Count = 20_000
    """Users of each group at which the intervals are narrowest; fixed before the first look."""
    sample_ratio_alpha: Annotated[float, Field(gt=0, le=0.05)] = 0.001
    """Below this p the groups' sizes are not what was asked for, and nothing is read."""
    max_crossed: Share = 0.01
    """Share of the users seen in both groups above which the log or the split is broken."""
    winsorise: Annotated[float, Field(gt=0.5, le=1)] = 0.999
    """A user with more searches, or more sessions, than this quantile of the users counts as much as one at it."""
    before_days: Amount = 14.0
    """Days before the start whose searches explain users' habits (CUPED); 0: none."""
    change_query_seconds: Positive = 300.0
    """Another query in the same session within this time counts as a change of the query."""
    min_requests: Count = 200
    """Requests that each model needs before its errors and its latency are read."""
    max_error_rise: Share = 0.005
    """How much greater the challenger's share of failed requests may be; confidently more rolls back."""
    max_latency_ratio: Annotated[float, Field(gt=1, le=100)] = 2.0
    """The challenger's 95th percentile of latency over the champion's; confidently more rolls back."""
    prometheus: PrometheusSettings | None = None
    """Asked for the servers' health; without it the traffic backend is, and HAProxy alone knows some of it: errors."""
    unwatched: tuple[Literal["errors", "latency"], ...] = ()
    """What of the servers' health nobody measures. All else must be known before a challenger gets more traffic."""
    traffic: RegisteredName = "haproxy"
    """What splits the traffic: haproxy, transformer, configmap, kserve, httproute, or a name that a package registers
    in ``serm.traffic``."""
    traffic_options: dict[str, Any] = Field(default_factory=dict)
    """That backend's own settings, as docs/rollout.md lists them."""

    @model_validator(mode="after")
    def _ramp(self) -> RolloutSettings:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps {self.steps} do not rise")
        roles = [*self.primary, *self.guardrails, *self.signals]
        if twice := sorted({name for name in roles if roles.count(name) > 1}):
            raise ValueError(f"{twice[0]} stands in two of primary, guardrails and signals")
        return self

    @property
    def watched(self) -> bool:
        """Whether a challenger with all users is watched before it is promoted."""
        return self.watch_days > 0 and {"errors", "latency"} > set(self.unwatched)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics that are read."""
        return (*self.primary, *self.guardrails, *self.signals)
