"""Advance: what a cycle proved becomes what the next cycle believes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from serm import contracts
from serm.atomic import recover
from serm.errors import UserError
from serm.layout import (
    AFTER,
    CHAMPION,
    CYCLE,
    HISTORY,
    JUDGMENTS,
    LOCK,
    PROFILES,
    REFERENCE,
    REVIEWED,
    ROLLOUTS,
    STATE,
    SUPERSEDED,
    WINDOWS,
)
from serm.settings import Settings
from serm.step import Figures, step
from serm.workspace import merge, registry
from serm.workspace.lock import reviews_at_rest, writing
from serm.workspace.origin import push, require_level
from serm.workspace.pins import bring, pinned
from serm.workspace.progress import Progress
from serm.workspace.store import Workspace

#: What the next cycle compares its window with: what the tag pins -> where it goes.
_WINDOW = {"cycle/validate/impressions": REFERENCE, "cycle/validate/profiles": PROFILES, "cycle/drift/windows": WINDOWS}


@step
def advance(repository: Path, settings: Settings) -> Figures:
    """Move the world's state past a published cycle; a second call changes nothing but what people judged since.

    All comes from the cycle's tag: the gate's result out of git, the rest out of DVC by the hashes that the tag pins,
    whatever lies in ``cycle/`` and ``history/`` by now. A challenger that passed the gate becomes the champion; where
    it had a rollout (``rollout/<tag>.json``), or needs one (``rollout.required``), only if its users promoted it. The
    panel's judgments, of mined pairs and of shown ones, join the earlier ones in any case: they were earned, whatever
    the model made of them. So do the human judgments of ``serm review``, if there are any (``reviewed/``). The window
    becomes the reference; its profile and a sample of it join those of the windows before. A window that was recorded
    because nothing drifted has no challenger and no panel's judgments. An advance that was cut short is ended by the
    next one.

    Returns:
        ``champion`` (``promoted`` or ``kept``), ``judgments`` (rows now in the state), ``commit``.

    Raises:
        UserError: the cycle has been neither published nor recorded, its rollout runs or is missing, the state is past
            a later one, an advance past another one was cut short, HEAD is on no branch, or another command writes in
            the workspace.
    """
    workspace = Workspace(repository)
    with writing(workspace.path, "serm advance"):
        if settings.publish.push:
            require_level(workspace, settings.publish.remote)
        tag = settings.cycle.name
        progress = _checked(workspace, tag)
        learned = workspace.shows(tag, f"history/{tag}/evaluate.json")
        promoted = learned and _gate(workspace, tag) == "passed" and _liked(workspace, tag, settings)
        root = workspace.path
        if progress.after != tag:
            Progress(progress.after, progress.champion, advancing=tag).write(root)
            _take(workspace, tag, learned, promoted)
        with reviews_at_rest(root):
            if (root / REVIEWED).exists():
                merge.keep(contracts.read(root / REVIEWED, contracts.JUDGMENTS), root / JUDGMENTS)
            present = [path for path in (SUPERSEDED, REVIEWED) if (root / path).exists()]
            workspace.track(*STATE, *present)
        done = Progress(tag, "promoted" if promoted else "kept")
        done.write(root)
        after = [HISTORY / tag / f"{name}.json" for name in ("deploy", "costs", "audit")]
        pointers = workspace.pointers(*STATE, *present)
        rollouts = [path.relative_to(root) for path in sorted((root / ROLLOUTS).glob("*.json"))]
        told = (AFTER, CYCLE / "deploy", *rollouts, *after, *pointers)
        if settings.publish.push:
            workspace.push_objects()
        commit = workspace.commit(f"After {tag}: champion {done.champion}", told)
        champions = registry.promote(workspace, tag) if done.champion == "promoted" else []
        push(workspace, settings.publish, champions)
        rows = contracts.read(root / JUDGMENTS, contracts.JUDGMENTS).num_rows
        return {"champion": str(done.champion), "judgments": rows, "commit": commit}


def _checked(workspace: Workspace, tag: str) -> Progress:
    """Return how far the state is; raises where it cannot be moved past ``tag``, or a part of it is lost."""
    workspace.require_branch()
    if not workspace.has_tag(tag):
        raise UserError(f"{workspace.path}: {workspace.tag(tag)} is not published; run `serm publish` first.")
    for path in (CHAMPION, JUDGMENTS):
        recover(workspace.path / path)
        if not (workspace.path / path).exists():
            raise UserError(f"{workspace.path / path}: not there; `dvc checkout {path}` brings it back.")
    progress = Progress.read(workspace.path)
    if progress.advancing not in (None, tag):
        raise UserError(
            f"{workspace.path}: `serm advance` past {progress.advancing} was cut short; set cycle.number in params.yaml"
            " to that cycle's and run it again, before any other."
        )
    if progress.after != tag and progress.is_past(tag):
        raise UserError(
            f"{workspace.path}: the state is past {progress.after} already; set cycle.number in params.yaml to a later"
            " cycle's."
        )
    return progress


def _gate(workspace: Workspace, tag: str) -> str:
    """Return the gate's result as the tag holds it."""
    try:
        return str(json.loads(workspace.show(tag, f"history/{tag}/evaluate.json"))["gate"]["result"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{workspace.path}: {workspace.tag(tag)} holds no gate's result ({error}); publish the cycle again."
        ) from error


def model_of(workspace: Workspace, tag: str) -> dict[str, str]:
    """Return which challenger a published cycle has: its git ``tag``, and DVC's hash of what ``trained`` it.

    Raises:
        UserError: the tag pins no trained model.
    """
    for path, found in pinned(workspace, tag).items():
        if path in ("cycle/train", "cycle/train/model"):
            return {"tag": workspace.tag(tag), "trained": found}
    raise UserError(f"{workspace.path}: {workspace.tag(tag)} pins no cycle/train; publish the cycle again.")


def _liked(workspace: Workspace, tag: str, settings: Settings) -> bool:
    """Tell whether users let the challenger pass: its rollout promoted it, or it had none and needs none.

    Raises:
        UserError: the rollout still runs, there is none and ``rollout.required`` wants one, it was of another model, or
            its record is damaged.
    """
    path = workspace.path / ROLLOUTS / f"{tag}.json"
    required = settings.rollout.required
    if not path.exists():
        if required:
            raise UserError(
                f"{path}: there is no such rollout, and rollout.required is set: {tag}'s challenger passed the "
                "gate and waits for users. Run `serm rollout start`, and advance once they have decided."
            )
        return True
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        outcome, model = record["outcome"], record.get("model")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no rollout's record ({error!r}); bring an undamaged copy.") from error
    if outcome == "running":
        raise UserError(f"{path}: this rollout is running; advance after it, or end it with `serm rollout abort`.")
    if outcome != "promoted":
        return False
    if (model or required) and model != (challenger := model_of(workspace, tag)):
        raise UserError(
            f"{path}: users promoted the model {model}, and {workspace.tag(tag)} pins {challenger}; roll that one out, "
            "under another cycle's number."
        )
    return True


def _take(workspace: Workspace, tag: str, learned: bool, promoted: bool) -> None:
    """Bring what the tag pins into the state."""
    paths = {**_WINDOW, **({"cycle/train/model": CHAMPION} if promoted else {})}
    with TemporaryDirectory(dir=workspace.path / LOCK.parent, prefix="advance-") as directory:
        labels = (
            {f"cycle/annotate/{name}": Path(directory) / name for name in ("judgments", "shown")} if learned else {}
        )
        bring(workspace, tag, paths | labels)
        for path in labels.values():
            merge.keep(contracts.read(path, contracts.JUDGMENTS), workspace.path / JUDGMENTS)
