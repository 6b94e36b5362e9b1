"""Publish a cycle: put the outputs into the workspace, pin them with DVC, commit and tag."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from serm.atomic import write_json, write_text
from serm.errors import UserError
from serm.escaping import templates
from serm.layout import CYCLE, HISTORY, INPUTS, MODEL_CARD, PARAMS, SETUP, STATE
from serm.settings import Settings
from serm.step import Figures, step
from serm.steps import STEPS
from serm.workspace.lock import writing
from serm.workspace.pins import digest, pinned
from serm.workspace.store import Workspace, place

_SUBJECTS = {
    "passed": "the challenger passed the gate",
    "failed": "the challenger failed the gate",
    "error": "the challenger could not be tried",
}
_LOCALE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]{2,8})*")


@step
def publish(repository: Path, outputs: Mapping[str, Path], settings: Settings) -> Figures:
    """Commit and tag a finished cycle, with its model card; a second call with the same bytes changes nothing.

    What is refused is refused before anything is written.

    Args:
        repository: the workspace.
        outputs: step name -> the directory that it wrote; those already in ``cycle/`` stay where they are.
        settings: the cycle's settings.

    Returns:
        ``tag`` and ``commit``.

    Raises:
        UserError: an output is missing, the tag exists already with other bytes, HEAD is on no branch, or another
            command writes in the workspace.
    """
    workspace = Workspace(repository)
    with writing(workspace.path, "serm publish"):
        summaries = read_summaries(workspace, outputs, STEPS)
        card = model_card(summaries, settings)
        tag = settings.cycle.name
        if not is_published(workspace, tag, outputs, STEPS):
            pin(workspace, tag, outputs, summaries)
            write_text(workspace.path / MODEL_CARD, card)
            gate = summaries["evaluate"]["gate"]["result"]
            tag_cycle(workspace, tag, f"{tag}: {_SUBJECTS.get(gate, gate)}", f"gate: {gate}")
        return pushed(workspace, tag)


def read_summaries(workspace: Workspace, outputs: Mapping[str, Path], steps: Sequence[str]) -> dict[str, Any]:
    """Return the summaries of the steps' outputs; nothing is written.

    Raises:
        UserError: the workspace cannot take a commit, an output was not given or is not there, or its summary is not.
    """
    workspace.require_branch()
    if missing := sorted(set(steps) - set(outputs)):
        raise UserError(f"{workspace.path}: the outputs of {', '.join(missing)} were not given to be published.")
    return {name: summary(outputs[name], name) for name in steps}


def is_published(workspace: Workspace, tag: str, outputs: Mapping[str, Path], steps: Sequence[str]) -> bool:
    """Tell whether the cycle is tagged already, with these outputs and the settings of params.yaml.

    Raises:
        UserError: it is tagged with others.
    """
    if not workspace.has_tag(tag):
        return False
    pins = pinned(workspace, tag)
    changed = [f"cycle/{name}" for name in steps if pins.get(f"cycle/{name}") != digest(outputs[name])]
    if workspace.show(tag, str(PARAMS)) != (workspace.path / PARAMS).read_text(encoding="utf-8").strip():
        changed.append(str(PARAMS))
    if changed:
        raise UserError(
            f"{workspace.path}: {workspace.tag(tag)} exists already and {', '.join(changed)} differ from it; "
            f"set cycle.number in params.yaml to the next number, or delete the tag to publish again."
        )
    return True


def pin(workspace: Workspace, tag: str, outputs: Mapping[str, Path], summaries: Mapping[str, Any]) -> None:
    """Put the outputs into ``cycle/``, pin them with DVC, and put their summaries into the history of the cycle."""
    for name in summaries:
        place(outputs[name], workspace.path / CYCLE / name)
    workspace.dvc("commit", "--force", *(summaries if len(summaries) < len(STEPS) else ()))
    history = workspace.path / HISTORY / tag
    written = {f"{name}.json" for name in summaries}
    for left in [path for path in history.glob("*") if path.name not in written]:
        left.unlink()  # of a trial under this tag, which was deleted, or of a publish that was killed
    for name, figures in summaries.items():
        write_json(history / f"{name}.json", figures)


def tag_cycle(workspace: Workspace, tag: str, message: str, said: str) -> None:
    """Commit what DVC pinned, the summaries and the pointers of what the cycle read, and tag the commit."""
    own = (*SETUP, "dvc.yaml", "dvc.lock", PARAMS, CYCLE / ".gitignore", MODEL_CARD, HISTORY / tag)
    workspace.commit(message, (*own, *workspace.pointers(*INPUTS, *STATE)))
    workspace.git("tag", "--annotate", workspace.tag(tag), "--message", f"SERM {tag}, {said}")


def pushed(workspace: Workspace, tag: str) -> Figures:
    """Push to DVC's remote, if there is one, and return the cycle's git tag and its commit."""
    if workspace.has_remote():
        workspace.dvc("push")
    return {"tag": workspace.tag(tag), "commit": workspace.git("rev-list", "-n", "1", workspace.tag(tag))}


def summary(directory: Path, name: str) -> dict[str, Any]:
    """Return the JSON summary that a step wrote into ``directory``."""
    path = directory / f"{name}.json"
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run `serm {name}` again.") from error
    return loaded


def model_card(summaries: Mapping[str, Mapping[str, Any]], settings: Settings) -> str:
    """Return the challenger's model card as Markdown, with the Hugging Face metadata block.

    Raises:
        UserError: a summary lacks what the card tells; another SERM wrote it.
    """
    languages = _languages(summaries["ingest"].get("locales", {}))
    front = {
        "library_name": "serm",
        "language": languages,
        "tags": ["relevance", "cross-encoder", "search", settings.cycle.name],
    }
    template = templates("serm.workspace", "markdown").get_template("model_card.md.jinja")
    try:
        return template.render(
            front_matter=Markup(yaml.safe_dump(front, sort_keys=False, default_flow_style=None)),  # `no` is a language
            settings=settings,
            languages=languages,
            code=code_version(),
            **summaries,
        )
    except jinja2.UndefinedError as error:
        raise UserError(
            f"cycle: a summary was written by another SERM ({error}); run the cycle's steps again."
        ) from error


def _languages(locales: Mapping[str, int]) -> list[str]:
    """Return the languages, as ISO 639 codes, of the ``locales`` (locale to rows) that a log names, the largest 100.

    What a log calls a locale and is none (``en``, ``de-AT``, ``pt_BR``) is left out.
    """
    largest = sorted(locales, key=lambda locale: (-locales[locale], locale))
    found = dict.fromkeys(of[1].lower() for locale in largest if (of := _LOCALE.fullmatch(locale)))
    return sorted(list(found)[:100])


def code_version() -> str:
    """Return SERM's version, and its commit where it runs from a git checkout.

    It stands in the card only, which git keeps: an output that names the commit would change with every commit.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return f"version {version('serm')}, commit not known (not a git checkout)"
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"version {version('serm')}, commit {done.stdout.strip() or 'not known'}"
