"""The emoji world around a workspace: what a search engine, its users and its catalogue would be in earnest."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serm import settings as params
from serm.atomic import write_text
from serm.catalogue import Asked, update_documents
from serm.founding import Given, init
from serm.founding.init import BEGUN
from serm.layout import AFTER, CHAMPION, DOCUMENTS, HISTORY, LOG, PARAMS
from serm.settings import Settings
from serm.settings.cycle import CycleSettings
from serm.step import Figures, step
from serm.workspace.progress import Progress
from serm.workspace.store import TEMPLATE
from serm.workspace.windows import with_cycle
from serm.worlds import pools, raw, traffic
from serm.worlds.emoji import EmojiWorld

if TYPE_CHECKING:
    from serm.worlds.traffic import FirstStage


class EmojiStream:
    """One world and the workspace that it feeds; every method picks up where an interrupted one stopped."""

    def __init__(self, path: Path, world: EmojiWorld | None = None, params_file: Path = TEMPLATE / PARAMS) -> None:
        """Feed the workspace ``path``; ``params_file`` are its settings, whose window is set for each cycle."""
        self.path = path.absolute()
        self.world = world or EmojiWorld()
        self._params = params_file.absolute()

    @property
    def raw(self) -> Path:
        """The files that the workspace is founded on, beside it."""
        return self.path.with_name(self.path.name + ".raw")

    @property
    def is_founded(self) -> bool:
        """Whether ``found`` has finished."""
        return (self.path / AFTER).exists() and not (self.path / BEGUN).exists()

    @step
    def found(self) -> Figures:
        """Make the workspace as ``serm init`` does, of files that a company has: catalogue, judgments, first log."""
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(self.path):  # texts' encodings are kept there
            return self._found()

    def _found(self) -> Figures:
        if not self.raw.exists():
            text = self._params.read_text(encoding="utf-8").rstrip()
            raw.write_founding(
                self.raw, self.world, self._first_stage(), f"{text}\ntests:\n  draw: 0  # the world judges them\n"
            )
        founded = init(self.path, self._given(), lambda line: print(line, flush=True))
        compared = founded.figures["NDCG@10, frozen"]
        return {
            "impressions": founded.figures["impressions"]["reference"],
            **{f"NDCG@10 of {name}": compared[name] for name in ("champion", "cosine", "BM25") if name in compared},
        }

    def _given(self) -> Given:
        files, (start, end) = self.raw, self.world.windows[1]
        return Given(
            log=files / raw.LOG,
            documents=files / raw.PRODUCTS,
            judgments=(files / raw.JUDGMENTS,),
            knowledge=files / raw.KNOWLEDGE,
            tests=files / raw.TESTS,
            params=files / PARAMS,
            every=(end - start).days,
        )

    @step
    def open_window(self, number: int) -> Figures:
        """Let the world go on to window ``number``: its catalogue, tests, settings, and its users' log."""
        from serm import relevance

        start, end = self.world.windows[number]
        text = (self.path / PARAMS).read_text(encoding="utf-8")
        cycle = CycleSettings(number=number, start=start, end=end)
        write_text(self.path / PARAMS, with_cycle(text, cycle, str(self.path / PARAMS)))
        if (self.path / LOG / f"window={number}").exists():
            return {}
        settings = self.settings()
        products = self.raw / f"{number}-{raw.PRODUCTS}"
        raw.write_catalogue(self.world, number, products)
        update_documents(products, self.path / DOCUMENTS, None, Asked(), settings, snapshot=True)
        with contextlib.chdir(self.path):
            stage = self._first_stage()
            pools.renew_rolling(self.path, number, self.world, stage)
            champion = relevance.load(self.path / CHAMPION, settings.relevance)
            return traffic.simulate_window(self.path, number, self.world, champion, stage)

    def roll_out(self, number: int) -> None:
        """Let simulated users decide on the challenger of window ``number``, where the gate passed it."""
        from serm.worlds.ramp import roll_out

        settings = self.settings()
        evaluated = self.path / HISTORY / settings.cycle.name / "evaluate.json"
        if not evaluated.exists() or json.loads(evaluated.read_text(encoding="utf-8"))["gate"]["result"] != "passed":
            return
        stage = self._first_stage()
        for record in roll_out(self.path, self.world, stage, number, settings.cycle.name, settings.engine):
            reasons = "; ".join(record.decisions[-1].reasons[:1])
            print(
                f"rollout {record.experiment}: {record.outcome.replace('_', ' ')}, {reasons}. {record.note}", flush=True
            )

    def audit(self) -> dict[str, Any]:
        """Hold the open window's cycle against the hidden truth, as ``worlds.audit`` says."""
        from serm.worlds.audit import audit

        return audit(self.path, self.world)

    def settings(self) -> Settings:
        """Return the settings of the cycle that the world is at."""
        there = self.path / PARAMS
        return params.load(there if there.exists() else self._params)

    def is_past(self, number: int) -> bool:
        """Whether the workspace has advanced past cycle ``number``."""
        return Progress.read(self.path).is_past(f"cycle-{number:04d}")

    def _first_stage(self) -> FirstStage:
        """Return a new one: held here, its encoder would stand in memory beside each step of the cycle."""
        from serm import relevance

        settings = self.settings().relevance
        return traffic.FirstStage(relevance.load_encoder(settings.base, settings))
