"""Which exact data made a model: from a cycle, or one served score of it, back to the raw files."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.dataset as ds

from serm.errors import UserError
from serm.layout import CHAMPION, CYCLE, DOCUMENTS, DVC, JUDGMENTS, KNOWLEDGE, LOG, TESTS
from serm.workspace.pins import bring, pinned
from serm.workspace.progress import number
from serm.workspace.provenance import path_of
from serm.workspace.store import Workspace

#: What is known of a pair: the name -> the dataset that the tag pins, and the columns that are told.
_OF_A_PAIR = {
    "served": ("cycle/validate/impressions", ("locale", "position", "clicked", "score", "model_version", "variant")),
    "mined": ("cycle/mine/pairs", ("locale", "agents", "score", "uncertainty", "disagreement", "priority")),
    "votes": (
        "cycle/annotate/votes",
        ("locale", "judge", "grade", "distribution", "within_agreement", "rationale", "evidence"),
    ),
    "panel": ("cycle/annotate/judgments", ("locale", "grade", "source", "panel_version", "agreement", "distribution")),
    "shown": ("cycle/annotate/shown", ("locale", "grade", "source", "panel_version", "distribution")),
    "review": ("cycle/annotate/review", ("locale", "reason", "priority")),
    "known": ("cycle/state/judgments", ("locale", "grade", "source", "cycle", "rationale", "panel_version")),
}


def lineage(workspace: Workspace, tag: str, pair: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return what a cycle's model was made of, as the cycle's tag has it, whatever lies in the workspace by now.

    Args:
        workspace: the workspace.
        tag: the cycle, such as ``cycle-0003``.
        pair: a query, as it stands in the log, and a doc_id, of which everything is told that the cycle knew.

    Returns:
        ``cycle``, ``window`` (raw files and their SHA-256 among it), ``model``, ``judgments``, ``inputs``, and for a
        pair ``pair``: served (impressions of the window), mined (who chose it, and why), votes (the judges' calls),
        panel, shown, review, known (rows of the datasets of these names; known is what was judged before).

    Raises:
        UserError: there is no such tag, it has no provenance, its bytes cannot be had, or it knows nothing of the pair.
    """
    if not workspace.has_tag(tag):
        raise UserError(f"{workspace.path}: no cycle {workspace.tag(tag)}; `git tag` shows all.")
    told = {
        name: json.loads(workspace.show(tag, f"history/{tag}/{name}.json")) if _has(workspace, tag, name) else {}
        for name in ("ingest", "mine", "annotate", "train", "evaluate")
    }
    statement = _statement(workspace, tag)
    try:
        found = _walked(workspace, tag, told, statement)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{workspace.path}: {path_of(tag)} is of another SERM ({error}); walk with the one that"
            f" `git show {workspace.tag(tag)}:./{path_of(tag)}` names."
        ) from error
    if pair:
        found["pair"] = _pair(workspace, tag, pair, learned=bool(told["train"]))
    return found


def _walked(workspace: Workspace, tag: str, told: dict[str, Any], statement: dict[str, Any]) -> dict[str, Any]:
    """Return what the summaries and the statement of a cycle tell of it; KeyError and the like, if they do not."""
    pins = pinned(workspace, tag)
    build = statement["predicate"]["buildDefinition"]
    inputs = {one["name"]: one.get("digest", {}) for one in build["resolvedDependencies"] if "name" in one}
    cycle = build["externalParameters"]["params"]["cycle"]
    found = {
        "cycle": {
            "tag": workspace.tag(tag),
            "commit": workspace.git("rev-list", "-n", "1", workspace.tag(tag)),
            "gate": told["evaluate"].get("gate", {}).get("result", "quiet"),
            "run": statement["predicate"]["runDetails"].get("metadata", {}).get("invocationId"),
            "code": inputs.get("serm"),
        },
        "window": {
            "start": cycle["start"],
            "end": cycle["end"],
            "impressions": told["ingest"].get("rows_kept"),
            "files": {name: one["sha256"] for name, one in inputs.items() if name.startswith(f"{LOG}/")},
        },
        "inputs": {str(path): inputs.get(str(path)) for path in (LOG, DOCUMENTS, KNOWLEDGE, TESTS)},
    }
    if told["train"]:
        files = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        model = f"{CYCLE / 'train' / 'model'}/"
        found["model"] = {
            "versions": told["evaluate"].get("versions"),
            "md5": pins[str(CYCLE / "train")],
            "files": {name.removeprefix(model): sha256 for name, sha256 in files.items() if name.startswith(model)},
            "trained_from": inputs.get(str(CYCLE / CHAMPION)),
        }
        found["judgments"] = {
            "pairs": told["train"].get("pairs", {}).get("by_source"),
            "panel_version": told["annotate"].get("panel_version"),
            "mined": told["mine"].get("cascade", {}).get("mined"),
            "before": inputs.get(str(CYCLE / JUDGMENTS)),
        }
    return found


def _has(workspace: Workspace, tag: str, name: str) -> bool:
    return workspace.shows(tag, f"history/{tag}/{name}.json")


def _statement(workspace: Workspace, tag: str) -> dict[str, Any]:
    path = str(path_of(tag))
    if not workspace.shows(tag, path):
        raise UserError(f"{workspace.path}: {workspace.tag(tag)} has no {path}; an earlier SERM published it.")
    loaded: dict[str, Any] = json.loads(workspace.show(tag, path))
    return loaded


def _pair(workspace: Workspace, tag: str, pair: tuple[str, str], learned: bool) -> dict[str, Any]:
    """Return the rows of a pair in all that the tag pins, and the cycles that judged it before."""
    query, doc_id = pair
    wanted = {name: one for name, one in _OF_A_PAIR.items() if learned or name in ("served", "known")}
    found: dict[str, Any] = {"query": query, "doc_id": doc_id}
    scratch = workspace.path / DVC / "tmp"  # a clone may have none yet
    scratch.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix="serm-lineage-") as directory:
        places = {name: Path(directory) / name for name in wanted}
        bring(workspace, tag, {source: places[name] for name, (source, _) in wanted.items()})
        for name, (_, columns) in wanted.items():
            files = sorted(places[name].glob("*.parquet"))
            rows = ds.dataset(files, format="parquet")
            kept = [column for column in columns if column in rows.schema.names]
            ours = (ds.field("query") == query) & (ds.field("doc_id") == doc_id)
            found[name] = rows.to_table(columns=kept, filter=ours).to_pylist()
    if not any(found[name] for name in wanted):
        raise UserError(f"{workspace.tag(tag)} knows nothing of query {query!r} with doc_id {doc_id!r}.")
    earlier = {row["cycle"] for row in found["known"]} - {0, number(tag)}
    found["judged_in"] = [f"cycle-{one:04d}" for one in sorted(earlier)]
    return found
