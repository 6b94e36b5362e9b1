"""The arms of ``benchmarks/evolution.py``: what each would have its model learn from one window.

All arms of a world see the same windows, served by SERM's own champion, and the same mined pairs; they differ in
labels, in which pairs have them, and in nothing else. The hidden truth is read for the arm ``oracle`` alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from evolution_pooled import HARDEST, PROMOTED

from serm import contracts, judging, mining, relevance
from serm.mining.agents import AGENTS
from serm.settings import Settings
from serm.worlds.emoji import EmojiWorld
from serm.worlds.simulated_endpoint import SimulatedEndpoint
from serm.worlds.simulated_judge import SimulatedJudge, SimulatedJudgeSettings

KEY = ["query", "locale", "doc_id"]
PUBLISHED = ("user feedback", "click model", "model disagreement", "model uncertainty")
"""The miners of arXiv 2601.09515."""


@dataclass(frozen=True)
class Window:
    """What a window has for every arm."""

    path: Path
    """Holds ``documents``, ``knowledge`` and ``tests``, and SERM's ``validate``, ``mine`` and ``annotate``."""
    reference: Path
    """The impressions of the window before (IMPRESSIONS)."""
    champion: Path
    """SERM's model before it, which served it."""
    judgments: Path
    """What SERM knew before it (JUDGMENTS)."""
    emoji: EmojiWorld
    settings: Settings

    def kept(self) -> pa.Table:
        """Return the panel's labels of mined pairs (JUDGMENTS)."""
        return contracts.read(self.path / "annotate" / "judgments", contracts.JUDGMENTS)

    def shown(self) -> pa.Table:
        """Return the panel's distributions on what else was shown (JUDGMENTS)."""
        return contracts.read(self.path / "annotate" / "shown", contracts.JUDGMENTS)

    def true(self, table: pa.Table) -> pa.Table:
        """Return ``table`` with the hidden truth for grades."""
        truth = self.emoji.truth.lookup(*(table[name].combine_chunks() for name in KEY))
        return _graded(table, truth).filter(pa.array(truth >= 0))


Labels = Callable[[Window], tuple[pa.Table, pa.Table]]
"""Of a window: labels of mined pairs, and of what else was shown (JUDGMENTS each)."""


def shipped(window: Window) -> tuple[pa.Table, pa.Table]:
    """SERM as it ships."""
    return window.kept(), window.shown()


def self_labelled(champion: Path, documents: Path) -> Labels:
    """Return labels as SERM's own, with what ``champion`` believes in their place."""

    def labels(window: Window) -> tuple[pa.Table, pa.Table]:
        model, known = relevance.load(champion), texts(documents)
        return believed(window.kept(), model, known), believed(window.shown(), model, known)

    return labels


def nothing(window: Window) -> tuple[pa.Table, pa.Table]:
    """Return no labels."""
    return contracts.JUDGMENTS.empty_table(), contracts.JUDGMENTS.empty_table()


def oracle(window: Window) -> tuple[pa.Table, pa.Table]:
    """The hidden truth of SERM's own pairs: what a perfect panel would bring."""
    return window.true(window.kept()), window.true(window.shown())


def mined_only(window: Window) -> tuple[pa.Table, pa.Table]:
    """SERM without what else was shown."""
    return window.kept(), _none()


def shown_only(window: Window) -> tuple[pa.Table, pa.Table]:
    """SERM without its mined pairs."""
    return _none(), window.shown()


def random_mining(window: Window) -> tuple[pa.Table, pa.Table]:
    """As many pairs as SERM mined, drawn at random of all that was shown, with the panel's labels."""
    every = pa.concat_tables([window.kept(), window.shown()])
    draw = np.random.default_rng(window.settings.cycle.number).permutation(every.num_rows)
    return every.take(pa.array(np.sort(draw[: window.kept().num_rows]))), _none()


def hard_labels(window: Window) -> tuple[pa.Table, pa.Table]:
    """SERM's labels without their distributions: the likeliest grade, as certain."""
    kept, shown = (
        table.set_column(table.column_names.index("distribution"), "distribution", _nulls("distribution", table))
        for table in (window.kept(), window.shown())
    )
    return kept, shown


def published(window: Window) -> tuple[pa.Table, pa.Table]:
    """The published rules: four agents, and a label where all judges agree."""
    mined = window.path / "panels" / "four agents" / "mine"
    if not (mined / "pairs").exists():
        pairs = contracts.read(window.path / "mine" / "pairs", contracts.MINED_PAIRS)
        by = [any(one["agent"] in PUBLISHED for one in named) for named in pairs["agents"].to_pylist()]
        shutil.copytree(window.path / "mine" / "click_estimates", mined / "click_estimates", dirs_exist_ok=True)
        contracts.write(pairs.filter(pa.array(by)), mined / "pairs", contracts.MINED_PAIRS)
    return _annotated(window, "published", {"agreement": "unanimous"}, mined).kept(), _none()


def agreed(agreement: str) -> Labels:
    """The mined pairs, labelled by another ``judging.agreement`` on the judges' votes."""

    def labels(window: Window) -> tuple[pa.Table, pa.Table]:
        return _annotated(window, agreement, {"agreement": agreement}).kept(), _none()

    return labels


def simulated_llm(window: Window) -> tuple[pa.Table, pa.Table]:
    """SERM with a simulated LLM judge beside its offline judges, right on 85 of 100 pairs, behind the real protocol."""
    judge = SimulatedJudge(window.emoji, SimulatedJudgeSettings(accuracy=0.85))
    with SimulatedEndpoint(judge) as endpoint, chdir(window.path):  # the ledger of its answers lies there
        asked = {"name": "simulated", "base_url": endpoint.url, "model": "simulated", "paths": 1, "temperature": 0}
        llm = asked | {"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000}
        there = _annotated(window, "simulated LLM", {"llms": [llm], "offline": True})
    return there.kept(), there.shown()


def mostly(accuracy: float, like_champion: bool) -> Labels:
    """The hidden truth of SERM's pairs, spoilt: an error is another grade, at random or the champion's own."""

    def labels(window: Window) -> tuple[pa.Table, pa.Table]:
        return tuple(_spoilt(window, table, accuracy, like_champion) for table in oracle(window))  # type: ignore[return-value]

    return labels


def without_agent(agent: str) -> Labels:
    """SERM without the pairs that this miner alone chose."""

    def labels(window: Window) -> tuple[pa.Table, pa.Table]:
        pairs = contracts.read(window.path / "mine" / "pairs", contracts.MINED_PAIRS)
        others = [any(one["agent"] != agent for one in named) for named in pairs["agents"].to_pylist()]
        left = set(zip(*(pairs.filter(pa.array(others))[name].to_pylist() for name in KEY), strict=True))
        kept = window.kept()
        of_others = [pair in left for pair in zip(*(kept[name].to_pylist() for name in KEY), strict=True)]
        return kept.filter(pa.array(of_others)), window.shown()

    return labels


def times_the_budget(times: int) -> Labels:
    """SERM with a larger budget, and as many more pairs scored to find what is worth it."""

    def labels(window: Window) -> tuple[pa.Table, pa.Table]:
        options, mined = window.settings.mining, window.path / "panels" / f"{times} budgets" / "mine"
        larger = {"budget": times * options.budget, "max_scored": times * options.max_scored}
        if not mined.exists():
            changed = window.settings.model_copy(update={"mining": options.model_copy(update=larger)})
            read = (
                window.path / "validate",
                window.reference,
                window.champion,
                window.judgments,
                window.path / "tests",
            )
            mining.mine(*read, mined, changed)
        there = _annotated(window, f"{times} budgets", {}, mined)
        return there.kept(), there.shown()

    return labels


def share_of_budget(share: float) -> Labels:
    """SERM with so large a share of its mined pairs, drawn at random."""

    def labels(window: Window) -> tuple[pa.Table, pa.Table]:
        kept = window.kept()
        drawn = np.random.default_rng(window.settings.cycle.number).permutation(kept.num_rows)
        return kept.take(pa.array(np.sort(drawn[: round(share * kept.num_rows)]))), window.shown()

    return labels


@dataclass(frozen=True)
class Arm:
    """How an arm differs from SERM."""

    labels: Labels
    training: Mapping[str, object] = field(default_factory=dict)
    """Settings of the section ``training`` in the place of the demo's."""


BESIDE_ANCHORS = {
    "anchors": 8000,
    "batch_pairs": 40,
    "epochs": 1,
    "learning_rate": 5e-5,
    "champion_share": 0.0,
}
"""What a challenger was trained with until 2026-11-28."""
ARMS = {
    "published rules": Arm(published),
    "SERM with a simulated LLM": Arm(simulated_llm),
    "oracle": Arm(oracle),
    "random mining": Arm(random_mining),
}
ABLATIONS = {
    PROMOTED: Arm(shipped),
    "mined only": Arm(mined_only),
    "shown only": Arm(shown_only),
    "hard labels": Arm(hard_labels),
    "dawid-skene": Arm(agreed("dawid-skene")),
    "mace": Arm(agreed("mace")),
    "unanimity": Arm(agreed("unanimous")),
    "a quarter of the mined": Arm(share_of_budget(0.25)),
    # As many more judged pairs are trained on, so that others do not make room for them.
    "twice the budget": Arm(times_the_budget(2), {"max_pairs": 40_000}),
    "four times the budget": Arm(times_the_budget(4), {"max_pairs": 52_000}),
    "8,000 anchors": Arm(shipped, {"anchors": 8000}),
    "12,000 pairs": Arm(shipped, {"max_pairs": 12_000}),
    "where training ended": Arm(shipped, {"champion_share": 0.0}),
    "one pass": Arm(shipped, {"epochs": 1}),
    "one pass beside anchors": Arm(shipped, BESIDE_ANCHORS | {"max_pairs": 12_000}),
    HARDEST: Arm(nothing, BESIDE_ANCHORS | {"steps": 580}),
    "replay, twenty passes": Arm(nothing, {"epochs": 20}),  # as many steps as SERM takes: they overfit the seed
    "no listwise loss": Arm(shipped, {"listwise_weight": 0.0}),
    "half the learning rate": Arm(shipped, {"learning_rate": 1e-4}),
    "twice the learning rate": Arm(shipped, {"learning_rate": 4e-4}),
    "40 pairs a step": Arm(shipped, {"batch_pairs": 40, "learning_rate": 1e-4}),
    **{
        f"labels {accuracy:.0%} right, errors {'as the champion' if like else 'at random'}": Arm(mostly(accuracy, like))
        for accuracy in (0.9, 0.8, 0.7, 0.6)
        for like in (False, True)
    },
    **{f"without {agent}": Arm(without_agent(agent)) for agent in AGENTS},
}


def _annotated(window: Window, name: str, judging_settings: Mapping[str, object], mined: Path | None = None) -> Window:
    """Label what the mine step ``mined`` (SERM's own, if None) with other ``judging_settings``."""
    there, known = window.path / "panels" / name, window.path / "knowledge"
    if not (there / "annotate").exists():
        read = (mined or window.path / "mine", window.path / "validate", window.judgments, known)
        changed = window.settings.judging.model_validate({**window.settings.judging.model_dump(), **judging_settings})
        judging.annotate(*read, there / "annotate", window.settings.model_copy(update={"judging": changed}))
    return replace(window, path=there)


def believed(table: pa.Table, model: relevance.Model, known: dict[str, str]) -> pa.Table:
    """Return ``table`` (JUDGMENTS) with the model's own distributions for labels."""
    if not table.num_rows:
        return table
    believed = model.score(table["query"].to_pylist(), [known[one] for one in table["doc_id"].to_pylist()]).distribution
    kind = contracts.JUDGMENTS.field("distribution").type
    listed = pa.FixedSizeListArray.from_arrays(pa.array(believed.ravel(), pa.float64()), believed.shape[1]).cast(kind)
    grades = pa.array(believed.argmax(axis=1), pa.int8())
    table = table.set_column(table.column_names.index("distribution"), "distribution", listed)
    return table.set_column(table.column_names.index("grade"), "grade", grades)


def texts(documents: Path) -> dict[str, str]:
    """Return doc_id -> the text that a model reads."""
    table = contracts.read(documents, contracts.DOCUMENTS)
    named = zip(*(table[name].to_pylist() for name in ("doc_id", "title", "body")), strict=True)
    return {doc_id: relevance.document_text(title, body) for doc_id, title, body in named}


def _spoilt(window: Window, table: pa.Table, accuracy: float, like_champion: bool) -> pa.Table:
    """Return ``table``, of true grades, with ``accuracy`` of them; champion-like errors only where it errs."""
    true = table["grade"].to_numpy().astype(np.int64)
    draw = np.random.default_rng([window.settings.cycle.number, len(true)])
    if like_champion:
        model = relevance.load(window.champion)
        wrong = believed(table, model, texts(window.path / "documents"))["grade"].to_numpy().astype(np.int64)
    else:
        wrong = (true + draw.integers(1, 4, len(true))) % 4
    errs = draw.permutation(np.flatnonzero(wrong != true))[: round((1 - accuracy) * len(true))]
    true[errs] = wrong[errs]
    return _graded(table, true)


def _graded(table: pa.Table, grades: np.ndarray) -> pa.Table:
    """Return ``table`` with ``grades`` [n], given as certain by a person."""
    columns = {name: table[name] for name in contracts.JUDGMENTS.names}
    columns |= {"grade": pa.array(grades, pa.int8()), "source": pa.array(["human"] * table.num_rows)}
    columns |= {name: _nulls(name, table) for name in ("distribution", "rationale", "agreement", "panel_version")}
    return pa.table(columns)


def _nulls(name: str, table: pa.Table) -> pa.Array:
    return pa.nulls(table.num_rows, contracts.JUDGMENTS.field(name).type)


def _none() -> pa.Table:
    return contracts.JUDGMENTS.empty_table()
