"""The ``judging`` section of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from serm.settings.section import Count, Positive, RegisteredNames, Section, Seed, Share

ResponseFormat = Literal["json_schema", "json_object", "none"]
TokenLimit = Literal["max_tokens", "max_completion_tokens"]
RESPONSE_FORMATS: tuple[ResponseFormat, ...] = get_args(ResponseFormat)
TOKEN_LIMITS: tuple[TokenLimit, ...] = get_args(TokenLimit)
Address = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+([/?][^\s#]*)?$")]
"""An HTTP address without a user, a password or a fragment."""
Price = Annotated[float, Field(ge=0, le=100_000)]


class CriterionSettings(Section):
    """A narrow question about a pair, beside the one grade."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
    """What the ledger and the report call it."""
    question: Annotated[str, Field(min_length=1, max_length=500)]
    """For example: Does the document's title name what the query asks for?"""
    scale: Literal["grade", "yes-no"] = "grade"
    """Answered 0 (not at all) to 3 (fully), or 0 (no) and 1 (yes)."""


class LLMSettings(Section):
    """One LLM judge behind an OpenAI-compatible endpoint. Prices are in whatever currency ``budget.money`` is in."""

    name: Annotated[str, Field(pattern=r"^\w[\w .:/-]{0,39}$")]
    """What the report calls the judge."""
    base_url: Address
    """The endpoint up to and including its version, for example ``http://vllm:8000/v1``."""
    model: str
    """The model's name at the endpoint."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    """The environment variable that holds the key; null where the endpoint asks for none."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.7
    """Null: the endpoint's own, which reasoning models insist on."""
    paths: Annotated[int, Field(ge=1, le=99)] = 3
    """n sampled reasoning paths (level 1); sampling stops once the majority is decided."""
    max_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 300
    """An answer's bound, its thinking included; each call's reservation of money counts it in full."""
    response_format: ResponseFormat = "json_schema"
    """How the answer's form is asked for. An endpoint that says that it refuses this, one of the next three fields or
    the temperature is asked in another way, or without: learnt once a run, and told."""
    token_limit: TokenLimit = "max_tokens"
    """The name that ``max_tokens`` goes by at the endpoint."""
    seed: bool = True
    """Send each path's number as its seed."""
    logprobs: bool = True
    """Ask for token log-probabilities, to read a grade distribution off the label."""
    criteria: Annotated[tuple[CriterionSettings, ...], Field(max_length=12)] = ()
    """Questions that it answers before its grade, in the same call; its vote is what a regression on known pairs makes
    of the answers and the grade. One call a pair costs little more than the grade alone, but answers given together
    lean on each other; judges of one endpoint with a criterion each are more independent, at a call each."""
    comparisons: Annotated[int, Field(ge=0, le=20)] = 0
    """Other documents of its query that each pair's is compared with, in both orders, two calls each; the share that it
    wins counts as the answer to a narrow question does. Made after all grades, with what money is left."""
    price_per_million_input: Price = 0.0
    """Of a million tokens that are sent; prompts that the endpoint cached cost the same here."""
    price_per_million_output: Price = 0.0
    """Of a million tokens that come back."""
    requests_per_minute: Count = 600
    """Calls are paced to stay below it."""
    tokens_per_minute: Count = 1_000_000
    """The same, of tokens sent and reserved."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Requests in flight at once."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Of one request, its body included."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 6
    """Times that one call is sent before its pair is left unjudged."""
    backoff_seconds: Annotated[float, Field(gt=0, le=60)] = 0.5
    """The first pause before a retry is up to this, and doubles; a longer Retry-After wins, up to the patience."""
    patience_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """How long an endpoint that does not answer, or answers 429 only, is probed before its judge's other pairs are
    left unjudged; what it asked to wait counts."""

    @model_validator(mode="after")
    def _varied(self) -> LLMSettings:
        if self.paths > 1 and self.temperature == 0:
            raise ValueError(f"judge {self.name}: {self.paths} paths at temperature 0 are one path; raise temperature")
        names = [criterion.name for criterion in self.criteria]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"judge {self.name}: criterion {twice[0]!r} stands there twice")
        return self


class SearchSettings(Section):
    """A search endpoint that LLM judges get evidence from: ``GET url?q=<query>&locale=<locale>``."""

    url: Address
    """Answers ``{"results": [{"text": ...}, ...]}``; what it answers once is kept in the ledger."""
    count: Count = 3
    """Results that are shown to a judge."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 4
    """Requests in flight at once."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Of one request."""


class BudgetSettings(Section):
    """What the LLM judges of a cycle may cost, over all runs of its annotate step; null: no cap."""

    money: Annotated[float, Field(ge=0, le=1e9)] | None = 10.0
    """In the currency of the judges' prices."""
    calls: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = 100_000
    """Calls that went out, of all judges."""
    seconds: Positive | None = None
    """Wall time of one run's calls."""


class TrustSettings(Section):
    """What each batch of labels is checked with, and the bars it must clear; else the whole batch is held."""

    gold_pairs: Count = 120
    """Held-out seed judgments that each LLM judge grades; and as many others, that tie the label model to the truth;
    and as many pairs that people graded: on these two its probabilities are calibrated.
    Offline judges grade all held-out seed judgments."""
    canaries: Annotated[int, Field(ge=0, le=1_000_000_000)] = 16
    """Documents with planted instructions that each LLM judge grades; with fewer than half of them judged, nothing is
    known. 0 asks for none."""
    repeats: Annotated[int, Field(ge=0, le=1_000_000_000)] = 20
    """Pairs of earlier cycles, as far as there are some, that each LLM judge grades anew; as with canaries."""
    padded: Annotated[int, Field(ge=0, le=1_000_000_000)] = 16
    """Gold documents with a neutral text behind them that each LLM judge grades: judges over-rate length. 0: none."""
    min_gold_pairs: Count = 30
    """With fewer gold labels kept, nothing is known: a batch with LLM judges is held, an offline one goes on and the
    gate is inconclusive."""
    min_kappa: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Quadratic-weighted kappa of the kept gold labels."""
    max_over_rated: Share = 0.5
    """Share of kept gold labels above the true grade."""
    max_under_rated: Share = 0.5
    """The same, below it."""
    min_known_answers: Share = 0.8
    """Where nothing is judged yet: share of an LLM judge's grades of made-up pairs that are right. A document is good
    or excellent for its own title as the query, and bad or fair for a query that it shares nothing with."""
    min_canaries_withstood: Share = 0.9
    """Of each LLM judge."""
    max_padding_shift: Annotated[float, Field(ge=0, le=3)] = 0.4
    """Grades by which padded documents may be graded higher than the same documents without, on the mean."""
    min_repeated: Share = 0.6
    """Share of repeated pairs that an LLM judge must grade as before."""


OFFLINE_JUDGES = ("lexical", "encoder", "outside knowledge", "users")


class JudgingSettings(Section):
    """The panel of judges and how they must agree."""

    paths: Annotated[int, Field(ge=1, le=99)] = 5
    """n sampled reasoning paths for each judge (level 1, majority)."""
    agreement: Literal["posterior", "unanimous", "dawid-skene", "mace"] = "posterior"
    """Level 2: keep where all judges agree (``unanimous``, as published), where a label model of their votes is
    confident (``dawid-skene``, ``mace``), or where the likelihoods of texts, users and LLM judges together are."""
    min_confidence: Share = 0.7
    """Level 2, but for unanimous: the probability that a label needs to be kept."""
    min_impressions: Count = 3
    """agreement posterior: pairs that users were shown as often are labelled too, with a probability for each grade,
    by what users did and by their texts; no LLM judge is asked of them."""
    max_shown: Count = 30_000
    """Of such pairs, whole queries drawn by a hash, so that lists stay whole and rare queries are among them."""
    knowledge_attribute: str = "emoji"
    """The document attribute that links a document to the outside knowledge's key."""
    calibration_pairs: Count = 3000
    """Seed judgments, whole queries, that the judges are calibrated and measured on; more cost time."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Seed queries kept out of calibration, on which the panel's accuracy is reported."""
    seed: Seed = 17
    """Of what is drawn for calibration, gold, canaries and repeats."""
    offline: bool = True
    """Whether SERM's offline judges sit on a panel that has other ones (``judges``, ``llms``)."""
    judges: RegisteredNames = ()
    """Judges of other packages (entry points of ``serm.judges``) that sit on the panel beside the others."""
    llms: tuple[LLMSettings, ...] = ()
    """LLM judges, an entry each."""
    rubric: Annotated[str, Field(min_length=1, max_length=8000)] | None = None
    """What the grades 3 to 0 mean, in the user's own words, for LLM judges; null: SERM's criteria."""
    explained_examples: Annotated[int, Field(ge=0, le=40)] = 4
    """Grades that people explained (the notes of ``serm review``) that an LLM judge is shown, those of the pair's
    locale first, beside one seed judgment a grade."""
    max_document_chars: Annotated[int, Field(ge=50, le=10_000_000)] = 2000
    """Of a document, a query or a piece of evidence in a prompt; the rest is cut."""
    evidence_documents: Annotated[int, Field(ge=0, le=1_000_000_000)] = 3
    """Other documents of the catalogue, by BM25, that an LLM judge is shown with a pair."""
    evidence_texts: Annotated[int, Field(ge=0, le=1_000_000_000)] = 5
    """Texts of the outside knowledge that an LLM judge is shown with a pair."""
    search: SearchSettings | None = None
    """Null: LLM judges are shown no search results."""
    budget: BudgetSettings = BudgetSettings()
    trust: TrustSettings = TrustSettings()
    ledger: Path = Path(".serm/judging.sqlite")
    """Every LLM call and its answer (SQLite, on a local disk); relative to the current directory."""

    @model_validator(mode="after")
    def _named_apart(self) -> JudgingSettings:
        names = [*(llm.name for llm in self.llms), *self.judges, *OFFLINE_JUDGES]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"judge {twice[0]!r} stands there twice; give each judge a name of its own")
        if not self.offline and not self.llms and not self.judges:
            raise ValueError("no judges: offline is false, llms and judges are empty")
        return self
