"""The arms of ``benchmarks/evolution.py``: what each would have its model learn from one window.

All arms of a world see the same windows, served by SERM's own champion, and the same mined pairs; they differ in
labels, in which pairs have them, and in nothing else. The hidden truth is read for the arm ``oracle`` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from serm import contracts, judging
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
    """Holds ``validate``, ``mine`` and ``annotate``: SERM's own."""
    world: Path
    """Holds ``documents``, ``knowledge`` and ``tests``."""
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
    return _annotated(window, "published", {"agreement": "unanimous"}, agents=PUBLISHED).kept(), _none()


def dawid_skene(window: Window) -> tuple[pa.Table, pa.Table]:
    """The mined pairs, labelled by Dawid and Skene's model on the judges' votes."""
    return _annotated(window, "dawid-skene", {"agreement": "dawid-skene"}).kept(), _none()


def simulated_llm(window: Window) -> tuple[pa.Table, pa.Table]:
    """SERM with a simulated LLM judge beside its offline judges, right on 85 of 100 pairs, behind the real protocol."""
    judge = SimulatedJudge(window.emoji, SimulatedJudgeSettings(accuracy=0.85))
    with SimulatedEndpoint(judge) as endpoint, chdir(window.path):  # the ledger of its answers lies there
        asked = {"name": "simulated", "base_url": endpoint.url, "model": "simulated", "paths": 1, "temperature": 0}
        llm = asked | {"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000}
        there = _annotated(window, "simulated LLM", {"llms": [llm], "offline": True})
    return there.kept(), there.shown()


ARMS: dict[str, Labels] = {
    "SERM": shipped,
    "published rules": published,
    "SERM with a simulated LLM": simulated_llm,
    "oracle": oracle,
    "random mining": random_mining,
}
ABLATIONS: dict[str, Labels] = {
    "mined only": mined_only,
    "shown only": shown_only,
    "hard labels": hard_labels,
    "dawid-skene": dawid_skene,
}


def _annotated(window: Window, name: str, judging_settings: dict[str, object], agents: tuple[str, ...] = ()) -> Window:
    """Label the window's mined pairs with other ``judging_settings``; only those that one of the ``agents`` chose."""
    there = window.path / "panels" / name
    if not (there / "annotate").exists():
        mined = there / "mine"
        pairs = contracts.read(window.path / "mine" / "pairs", contracts.MINED_PAIRS)
        if agents:
            by = [any(one["agent"] in agents for one in named) for named in pairs["agents"].to_pylist()]
            pairs = pairs.filter(pa.array(by))
        estimates = contracts.read(window.path / "mine" / "click_estimates", contracts.CLICK_ESTIMATES)
        contracts.write(pairs, mined / "pairs", contracts.MINED_PAIRS)
        contracts.write(estimates, mined / "click_estimates", contracts.CLICK_ESTIMATES)
        changed = window.settings.judging.model_validate({**window.settings.judging.model_dump(), **judging_settings})
        judging.annotate(
            mined,
            window.path / "validate",
            window.judgments,
            window.world / "knowledge",
            there / "annotate",
            window.settings.model_copy(update={"judging": changed}),
        )
    return Window(there, window.world, window.judgments, window.emoji, window.settings)


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
