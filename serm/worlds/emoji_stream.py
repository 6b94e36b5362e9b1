"""The emoji world around a workspace: what a search engine, its users and its catalogue would be in earnest."""

from __future__ import annotations

import json
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serm import settings as params
from serm.atomic import write_text
from serm.layout import AFTER, CHAMPION, DOCUMENTS, HISTORY, JUDGMENTS, KNOWLEDGE, PARAMS, REFERENCE, SETUP, TESTS
from serm.settings import Settings
from serm.step import Figures, step
from serm.workspace.progress import Progress
from serm.workspace.store import TEMPLATE, Workspace
from serm.worlds import pools, traffic
from serm.worlds.emoji import WINDOWS, EmojiWorld

if TYPE_CHECKING:
    from serm.worlds.traffic import FirstStage


class EmojiStream:
    """One world and the workspace that it feeds; every method picks up where an interrupted one stopped."""

    def __init__(self, path: Path, world: EmojiWorld | None = None) -> None:
        self.path = path
        self.world = world or EmojiWorld()

    @property
    def is_founded(self) -> bool:
        """Whether ``found`` has finished."""
        return (self.path / "state.json").exists()

    @step
    def found(self) -> Figures:
        """Make the workspace: seed judgments, the first champion trained on them, and a reference window."""
        from serm import relevance, training

        workspace = Workspace.create(self.path, self.path.with_name(self.path.name + ".remote"))
        for name in ("dvc.yaml", "params.yaml"):
            if not (self.path / name).exists():
                shutil.copyfile(TEMPLATE / name, self.path / name)
        pools.prepare(self.path, 0, self.world, self._first_stage)
        champion = self.path / "state" / "champion"
        settings = self.settings()
        if not champion.exists():
            training.bootstrap(self.path / "state" / "judgments", self.path / "documents", champion, settings)
        model = relevance.load(champion, settings.relevance)
        figures = traffic.simulate_window(self.path, 0, self.world, model, self._first_stage)
        tracked = (DOCUMENTS, KNOWLEDGE, TESTS, CHAMPION, JUDGMENTS, REFERENCE)
        ignored = self.path / ".gitignore"
        if not ignored.exists():  # before DVC, which adds what it tracks
            write_text(ignored, "/.kfp/\n/.serm/\n/report/\n")
        workspace.track(*tracked)
        Progress("cycle-0000", "promoted").write(self.path)
        own = (*SETUP, ".gitignore", "dvc.yaml", PARAMS, AFTER)
        workspace.commit(
            "The emoji world (simulated users): seed judgments, first champion, reference window",
            (*own, *workspace.pointers(*tracked)),
        )
        return figures

    @step
    def open_window(self, number: int) -> Figures:
        """Let the world go on to window ``number``: its catalogue, tests, settings, and its users' log."""
        from serm import relevance

        start, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ") for time in WINDOWS[number])
        text = (self.path / "params.yaml").read_text(encoding="utf-8")
        for field, value in (("number", str(number)), ("start", f'"{start}"'), ("end", f'"{end}"')):
            text = re.sub(rf"(?m)^  {field}: .*$", f"  {field}: {value}", text, count=1)
        write_text(self.path / "params.yaml", text)
        if (self.path / "log" / f"window={number}").exists():
            return {}
        pools.prepare(self.path, number, self.world, self._first_stage)
        champion = relevance.load(self.path / "state" / "champion", self.settings().relevance)
        return traffic.simulate_window(self.path, number, self.world, champion, self._first_stage)

    def roll_out(self, number: int) -> None:
        """Let simulated users decide on the challenger of window ``number``, where the gate passed it."""
        from serm.worlds.ramp import roll_out

        settings = self.settings()
        evaluated = self.path / HISTORY / settings.cycle.name / "evaluate.json"
        if not evaluated.exists() or json.loads(evaluated.read_text(encoding="utf-8"))["gate"]["result"] != "passed":
            return
        for record in roll_out(self.path, self.world, self._first_stage, number, settings.cycle.name, settings.engine):
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
        return params.load(self.path / "params.yaml")

    def is_past(self, number: int) -> bool:
        """Whether the workspace has advanced past cycle ``number``."""
        return Progress.read(self.path).is_past(f"cycle-{number:04d}")

    @cached_property
    def _first_stage(self) -> FirstStage:
        from serm import relevance

        settings = self.settings().relevance
        return traffic.FirstStage(relevance.load_encoder(settings.base, settings))
