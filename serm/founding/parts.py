"""The parts of a workspace that ``serm init`` makes, each of which is left alone where it is there already."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serm import contracts
from serm import engine as engines
from serm import settings as params
from serm.atomic import recover, replace_directory, write_json, write_text
from serm.catalogue import import_documents
from serm.errors import UserError
from serm.founding import judged, refused
from serm.founding.first import PROCESSOR_LAYERS, on_a_processor
from serm.founding.given import Given, Plan, early
from serm.founding.lengths import CHARACTERS_A_TOKEN, Lengths, choose
from serm.founding.own import with_sections
from serm.layout import CHAMPION, DOCUMENTS, JUDGMENTS, KNOWLEDGE, LOG, PARAMS, REFERENCE, TESTS
from serm.pairs.test_sets import MADE, POOL, SETS, datasets
from serm.pairs.text import folded
from serm.pooling import cut
from serm.settings import Settings, TrainingSettings, document
from serm.steps import STAGES
from serm.workspace.store import TEMPLATE, link_or_copy

QUARANTINE = Path("quarantine")
"""What could not be kept of catalogue and judgments; git does not see it."""
_DOCUMENTS, _IMPRESSIONS = Path(".serm/documents.json"), Path(".serm/impressions.json")
_SHOWN, _LENGTHS = Path(".serm/shown.parquet"), Path(".serm/lengths.json")
_FILES = "files of "


#: What is made of each of the files that are given, and of what is made of them.
_MADE_OF = {
    "documents": (DOCUMENTS, _DOCUMENTS, _LENGTHS, PARAMS, CHAMPION),
    "log": (LOG, REFERENCE, _SHOWN, _IMPRESSIONS, PARAMS, TESTS),
    "judgments": (_LENGTHS, PARAMS, TESTS, CHAMPION),
    "queries": (_LENGTHS, PARAMS, TESTS, CHAMPION),
    "tests": (_LENGTHS, PARAMS, TESTS, CHAMPION),
    "knowledge": (KNOWLEDGE,),
    "params": (DOCUMENTS, _DOCUMENTS, _LENGTHS, PARAMS, REFERENCE, _SHOWN, _IMPRESSIONS, TESTS, CHAMPION),
}


def given_files(given: Given) -> dict[str, str]:
    """Return ``files of <what>`` -> a hash of names, sizes and times of the files of each part of ``given``."""
    found = {}
    for name in _MADE_OF:
        told = hashlib.sha256()
        paths = given.judgments if name == "judgments" else [getattr(given, name)]
        for path in filter(None, paths):
            files = [one for one in path.rglob("*") if ".serm" not in one.relative_to(path).parts]
            for file in sorted(one for one in (path, *files) if one.is_file()):
                told.update(f"{file}\x1f{file.stat().st_size}\x1f{file.stat().st_mtime_ns}\x1e".encode())
        found[f"{_FILES}{name}"] = told.hexdigest()
    return found


def drop(root: Path, changed: Sequence[str]) -> None:
    """Take out of the workspace ``root`` what was made of files (names of ``given_files``) that have changed."""
    for path in {root / part for name in changed for part in _MADE_OF[name.removeprefix(_FILES)]}:
        recover(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Parts:
    """What is made of a team's files in the workspace ``root``; ``notes`` grow as there is something to say."""

    root: Path
    given: Given
    plan: Plan
    notes: list[str]
    is_trial: bool = False
    """Whether ``root`` is gone soon: the log is then read where it is."""

    def documents(self, settings: Settings) -> dict[str, Any]:
        """Read the catalogue, and return its figures."""
        told = self.root / _DOCUMENTS
        if not (self.root / DOCUMENTS).exists() or not told.exists():
            aside = self.root / QUARANTINE / "documents.jsonl"
            aside.parent.mkdir(exist_ok=True)
            figures = import_documents(
                self.given.documents, self.root / DOCUMENTS, aside, self.given.asked, settings
            ).figures
            write_json(told, figures)
        figures = json.loads(told.read_text(encoding="utf-8"))
        if figures["quarantined"]:
            why = ", ".join(f"{rows:,} because {reason}" for reason, rows in list(figures["reasons"].items())[:5])
            where = "" if self.is_trial else f"; they are in {QUARANTINE}/documents.jsonl with reasons"
            self.notes.append(f"{figures['quarantined']:,} documents cannot be kept ({why}){where}.")
        return dict(figures)

    def settings(self, documents: dict[str, Any]) -> Settings:
        """Write params.yaml, what differs from the defaults with its reason, and dvc.yaml; return the settings."""
        import torch

        long, gpu = int(documents["characters"]["95 %"]), torch.cuda.is_available()
        lengths = self._lengths(long, gpu)
        if not (self.root / PARAMS).exists():
            write_text(self.root / PARAMS, self._params(lengths, gpu))
            shutil.copyfile(TEMPLATE / "dvc.yaml", self.root / "dvc.yaml")
        settings = params.load(self.root / PARAMS)
        self.notes.append(f"relevance.max_tokens is {lengths.tokens}: {lengths.why}.")
        if long / CHARACTERS_A_TOKEN > settings.relevance.max_tokens:
            self.notes.append(
                f"Of a text its first {settings.relevance.max_tokens} tokens are read, title before body, and 5 % of"
                f" the documents have more than {long:,} characters."
            )
        return settings

    def _lengths(self, long: int, gpu: bool) -> Lengths:
        """Choose how much of a document is read, once."""
        kept = self.root / _LENGTHS
        if not kept.exists():
            write_json(kept, vars(choose(self._seed(), self.root / DOCUMENTS, long, self._own(), gpu=gpu)))
        return Lengths(**json.loads(kept.read_text(encoding="utf-8")))

    def _seed(self) -> pa.Table:
        return judged.seed_of(self.plan.judgments, self.plan.tests)

    def _own(self) -> Settings:
        """Return the settings so far: what the team gave."""
        own = early(self.given.locale, self.given.params)
        options = own.relevance.model_copy(update={"base": self.given.base})
        return own.model_copy(update={"relevance": options})

    def _params(self, lengths: Lengths, gpu: bool) -> str:
        text = self._differing(lengths, gpu)
        if self.given.params is not None:
            text = with_sections(text, document.read_text(self.given.params), str(self.given.params))
        told = document.sections(text, str(PARAMS))
        named = dict.fromkeys(section for stage in STAGES for section in stage.params)
        return text + "".join(f"{section}: {{}}\n" for section in named if section not in told)  # DVC wants each there

    def _differing(self, lengths: Lengths, gpu: bool) -> str:
        start, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ") for time in self.plan.window)
        return f"""\
# Settings of one cycle: what differs from the defaults. Every field, its unit and its bounds are in serm/settings/.
cycle:
  number: 1
  start: "{start}"
  end: "{end}"
  every: {self.given.every:g}  # days of a later window; `serm evolve` sets number, start and end
stream:
  locale: {json.dumps(self.given.locale)}  # of queries that name none
{self._proposed()}relevance:
  base: {json.dumps(self.given.base)}  # the text encoder
  max_tokens: {lengths.tokens}  # {lengths.why}
  cache_mb: 1000  # steps and cycles follow each other on one disk: each text is encoded once
{"" if gpu else self._of_processor(lengths.tokens)}tests:
  draw: 50  # new queries of each window for the rolling test set; LLM judges (judging.llms) or people grade them
"""

    def _of_processor(self, tokens: int) -> str:
        """Return the lines of what keeps training within minutes where there is no GPU."""
        fewer = on_a_processor(TrainingSettings(), self._seed().num_rows, tokens)
        lines = [f"  {name}: {value}\n" for name, value in fewer.items()]
        return f"  layers: {PROCESSOR_LAYERS}  # no GPU here: half of the default's time\n" + (
            "".join(["training:  # less than usual: minutes without a GPU\n", *lines]) if lines else ""
        )

    def _proposed(self) -> str:
        """Return the lines of what the log needs otherwise than the defaults have it."""
        return "".join(
            f"  {name}: {json.dumps(value)}  # by what the log holds\n" for name, value in self.plan.stream.items()
        )

    def log(self) -> None:
        """Take the log in: copies, as DVC makes what it tracks read-only, and a team's own files may still grow."""
        if (self.root / LOG).exists():
            return
        if self.is_trial and self.given.log.is_dir():
            (self.root / LOG).symlink_to(self.given.log)
            return
        with replace_directory(self.root / LOG) as beside:
            if self.is_trial:
                (beside / self.given.log.name).symlink_to(self.given.log)
                return
            if self.given.log.is_file():
                shutil.copyfile(self.given.log, beside / self.given.log.name)
                return
            shutil.copytree(self.given.log, beside, copy_function=shutil.copyfile, dirs_exist_ok=True)
            for directory in (beside, *(path for path in beside.rglob("*") if path.is_dir())):
                directory.chmod(0o755)  # the given one may be read-only; newer files are put here

    def knowledge(self) -> None:
        """Take what judges may look up; nothing where nothing is given."""
        if not (self.root / KNOWLEDGE).exists():
            given = self.given.knowledge
            table = contracts.read(given, contracts.KNOWLEDGE) if given else contracts.KNOWLEDGE.empty_table()
            contracts.write(table, self.root / KNOWLEDGE, contracts.KNOWLEDGE)

    def windows(self, settings: Settings) -> pa.Table:
        """Cut the reference window; return locale, query (folded), doc_id and impressions of what both show."""
        kept = self.root / _SHOWN
        if (self.root / REFERENCE).exists() and kept.exists() and (self.root / _IMPRESSIONS).exists():
            return pq.read_table(kept)
        reference, count = self._cut(self.plan.reference, self.root / REFERENCE, settings)
        found, counts = [reference], {"reference": count}
        if not self.plan.is_ahead:
            window, counts["window"] = self._cut(self.plan.window, None, settings)
            found.append(window)
        write_json(self.root / _IMPRESSIONS, counts)
        shown = pa.concat_tables(found).group_by(["locale", "query", "doc_id"]).aggregate([("impressions", "sum")])
        shown = shown.rename_columns(["locale", "query", "doc_id", "impressions"])
        pq.write_table(shown, kept)
        return shown

    def impressions(self) -> dict[str, int]:
        """Return how many impressions the windows have; without the first cycle's where that lies after the log."""
        return dict(json.loads((self.root / _IMPRESSIONS).read_text(encoding="utf-8")))

    def lacking(self, shown: pa.Table, settings: Settings) -> list[str]:
        """Say for what `serm evolve` will stop at the first cycle's validation."""
        count = self.impressions().get("window")
        found = refused.told(self.root / DOCUMENTS, shown, self.plan.judgments, settings)
        if count is not None and count < settings.validation.min_impressions:
            found.append(
                f"The first cycle's window has {count:,} impressions, and `serm evolve` stops at fewer than"
                f" validation.min_impressions ({settings.validation.min_impressions:,}): give longer windows with"
                " --every, or a longer log."
            )
        return found

    def _cut(self, window: tuple[datetime, datetime], place: Path | None, settings: Settings) -> tuple[pa.Table, int]:
        with TemporaryDirectory(dir=self.root / ".serm", prefix="init-") as scratch:
            impressions = cut(self.root / LOG, window, Path(scratch) / "ingest", settings)
            with engines.connect(settings.engine) as engine:
                rows = contracts.scan(engine, impressions, contracts.IMPRESSIONS)
                counted = rows.group_by("locale", "query", "doc_id").aggregate(impressions=ibis._.count())
                pairs = engine.to_pyarrow(counted)
                count = int(rows.count().to_pyarrow().as_py())
            if place is not None:
                place.parent.mkdir(exist_ok=True)
                with replace_directory(place) as beside:
                    shutil.copytree(impressions, beside, copy_function=link_or_copy, dirs_exist_ok=True)
        column = pairs.column_names.index("query")
        pairs = pairs.set_column(column, "query", folded(pairs["query"]))
        return pairs.filter(pc.and_(pc.is_valid(pairs["query"]), pc.is_valid(pairs["doc_id"]))), count

    def judgments(self, shown: pa.Table, settings: Settings) -> dict[str, int]:
        """Split the judgments into seed and test sets; return how many there are of each."""
        quarantined = self.plan.quarantined
        if quarantined:
            aside = self.root / QUARANTINE / "judgments.jsonl"
            aside.parent.mkdir(exist_ok=True)
            write_text(aside, "".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in quarantined))
            first, where = quarantined[0], f"; they are in {QUARANTINE}/judgments.jsonl with reasons"
            self.notes.append(
                f"{len(quarantined):,} rows of judgments cannot be kept, the first {first.where}: {first.reason}"
                f"{'' if self.is_trial else where}."
            )
        given = self.plan.tests
        parts = judged.beside(self.plan.judgments, given, shown) if given else judged.split(self.plan.judgments, shown)
        if not parts.seed.num_rows:
            raise UserError("the judgments have too few queries: none is left to train on; give more of them.")
        if not (self.root / TESTS).exists():
            with replace_directory(self.root / TESTS) as beside:
                for key, path in datasets(beside).items():
                    contracts.write(parts.tests[key], path, contracts.JUDGMENTS)
                if self.plan.made:
                    write_json(beside / MADE, self.plan.made)
        contracts.write(parts.seed, self.root / JUDGMENTS, contracts.JUDGMENTS)
        self._tell_of_tests(parts, settings)
        return parts.figures() | {"quarantined": len(quarantined)}

    def _tell_of_tests(self, parts: judged.Split, settings: Settings) -> None:
        gate, figures = settings.evaluation.gate, parts.figures()
        margin = max(gate.max_frozen_loss, abs(gate.min_gain))
        needed = max(gate.min_queries, judged.queries_needed(margin, settings.evaluation.alpha))
        there = [name for name in SETS if not self.plan.tests or (name, POOL) in self.plan.tests]
        fewest = min(figures[f"{name}_queries"] for name in there)
        if fewest < needed:
            self.notes.append(
                f"A test set has {fewest:,} queries; to find a difference of {margin:g} in NDCG@10 four times in five"
                f" takes about {needed:,}, so the gate will often not be able to tell. Judge more queries."
            )
        if made := self.plan.made.get("panel"):
            sample = self.plan.made.get("sample")
            told = "a person's sample would tell how right it is: `serm review`, then init anew."
            if sample:
                told = f"people graded {sample['pairs']:,} of its pairs too, {sample['same']:,} of them alike."
            self.notes.append(f"{made:,} judgments, of the test sets too, are an LLM panel's; {told}")
        if parts.assumed:
            self.notes.append(
                f"Of {parts.assumed:,} test queries the log shows no judged document: all that is judged stands for"
                " what they are served."
            )
