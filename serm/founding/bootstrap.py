"""``serm bootstrap``: without any judgment, queries of the log and documents to judge, graded or to grade."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serm import contracts, pooling, relevance
from serm import engine as engines
from serm.atomic import write_json
from serm.catalogue import Asked, import_documents
from serm.errors import UserError
from serm.founding.windows import fitting, windows
from serm.judging.cold import grade_cold
from serm.pooling import Draw, cut
from serm.settings import Settings
from serm.workspace.merge import merged

TOLD = "bootstrap.json"
"""What a directory of ``serm bootstrap`` is known by."""
ANNOTATED, VALIDATED, REVIEWED = Path("annotate"), Path("validate"), Path("reviewed")
"""As ``serm review`` takes them: what a panel made, the documents, and people's grades."""
_LEDGER = Path(".serm/judging.sqlite")


@dataclass(frozen=True)
class Wanted:
    """What to draw, and of what."""

    log: Path
    documents: Path
    asked: Asked = field(default_factory=Asked)
    queries: int = 300
    how: Draw = "stratified"
    sample: int = 100
    """Pairs that the panel graded and people are asked too."""
    every: float = 14.0
    """Days of a window, as for ``serm init``."""
    knowledge: Path | None = None


def bootstrap(
    out: Path, wanted: Wanted, settings: Settings, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Draw queries, pool documents and have the LLM judges of ``settings.judging`` grade them; return figures.

    Writes ``out`` with annotate/ and validate/documents, for ``serm review``, quarantine/ and bootstrap.json. Run
    again, it draws the same and asks no judge what the ledger in ``out`` has; people's grades in reviewed/ stay.

    Raises:
        UserError: a file is missing or cannot be read, nothing can be drawn, or an endpoint refuses.
    """
    if not wanted.log.exists():
        raise UserError(
            f"--log {wanted.log}: no such file or directory; give its path on this machine (no URL is read)."
        )
    if out.exists() and any(out.iterdir()) and not (out / TOLD).exists():
        raise UserError(f"{out}: something is there already; give a directory that is new or empty.")
    seen, settings, found = fitting(wanted.log, settings)
    reference, window, notes = windows(found, wanted.every)
    ledger = settings.judging.model_copy(update={"ledger": out.absolute() / _LEDGER})
    settings = settings.model_copy(update={"judging": ledger})
    out.mkdir(parents=True, exist_ok=True)
    if not (out / TOLD).exists():
        write_json(out / TOLD, {"begun": True})
    (out / "quarantine").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=out, prefix="drawing-") as scratch:
        tell(f"Reading the catalogue {wanted.documents}")
        documents = Path(scratch) / "documents"
        import_documents(wanted.documents, documents, out / "quarantine" / "documents.jsonl", wanted.asked, settings)
        tell(f"Taking the log {wanted.log}")
        impressions = cut(wanted.log, (reference[0], window[1]), Path(scratch) / "window", settings)
        tell("Drawing queries, and what users were served and searches find for them")
        with engines.connect(settings.engine) as engine:
            rows = contracts.scan(engine, impressions, contracts.IMPRESSIONS)
            drawn = pooling.draw(engine, rows, wanted.queries, wanted.how, seed=settings.judging.seed)
            if not drawn.num_rows:
                raise UserError(f"{wanted.log}: no query in it shows three documents or more; give a longer log.")
            encoder = relevance.load_encoder(settings.relevance.encoder, settings.relevance)
            pairs, texts = pooling.pool(engine, drawn, rows, documents, encoder)
        if not pc.any(pairs["served"]).as_py():
            raise UserError(
                f"{wanted.documents}: it has no document that the log shows for the drawn queries; give the catalogue"
                " that the log is of, or with --id the field that the log's ids are of."
            )
        contracts.write(texts, out / VALIDATED / "documents", contracts.DOCUMENTS)
    knowledge = contracts.KNOWLEDGE.empty_table()
    if wanted.knowledge:
        knowledge = contracts.read(wanted.knowledge, contracts.KNOWLEDGE)
    names = ", ".join(llm.name for llm in settings.judging.llms)
    tell(
        f"Asking {names} about {pairs.num_rows:,} pairs" if names else "No LLM judge is named: all pairs are for people"
    )
    graded = grade_cold(pairs, out / VALIDATED / "documents", knowledge, settings, wanted.sample)
    graded.write(out / ANNOTATED)
    told = {
        "queries": drawn.num_rows,
        **Counter(drawn["traffic"].to_pylist()),
        "served": int(pc.sum(pairs["served"]).as_py()),
        **graded.figures,
        "notes": [*(f"The log: {warning}." for warning in seen.warnings), *notes],
    }
    write_json(out / TOLD, told)
    return told


def is_bootstrap(path: Path) -> bool:
    """Tell whether ``path`` is a directory of ``serm bootstrap``."""
    return (path / TOLD).is_file()


def judgments(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return the JUDGMENTS in a directory of ``serm bootstrap``, people's before the panel's, and who made them.

    The figures: ``panel`` and ``people`` (judgments that stand), ``panel_version``, and where people graded what the
    panel did, ``sample``: the pairs and on how many the two say the same.

    Raises:
        UserError: nothing is graded yet.
    """
    told = json.loads((path / TOLD).read_text(encoding="utf-8"))
    panel = contracts.read(path / ANNOTATED / "judgments", contracts.JUDGMENTS)
    people = contracts.JUDGMENTS.empty_table()
    if (path / REVIEWED).exists():
        people = contracts.read(path / REVIEWED, contracts.JUDGMENTS)
    both = merged(panel, people)
    if not both.num_rows:
        said = {"--annotated": path / ANNOTATED, "--validated": path / VALIDATED, "--out": path / REVIEWED}
        where = " ".join(f"{option} {shlex.quote(str(place))}" for option, place in said.items())
        raise UserError(
            f"{path}: nothing of it is graded yet; grade it with `serm review {where}`, or name LLM judges with"
            " `serm bootstrap --params FILE`."
        )
    key = ["query", "locale", "doc_id"]
    twice = panel.select([*key, "grade"]).join(
        people.select([*key, "grade"]), key, right_suffix="_people", join_type="inner"
    )
    same = int(pc.sum(pc.equal(twice["grade"], twice["grade_people"])).as_py() or 0)
    sources = Counter(both["source"].to_pylist())
    made = {"panel": sources["panel"], "people": sources["human"], "panel_version": told.get("panel_version")}
    return both, made | ({"sample": {"pairs": twice.num_rows, "same": same}} if twice.num_rows else {})
