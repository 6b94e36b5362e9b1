"""Publish a cycle: put the outputs into the workspace, pin them with DVC, commit and tag."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from serm import settings as params
from serm.atomic import write_json, write_text
from serm.errors import UserError
from serm.escaping import templates
from serm.layout import CYCLE, HISTORY, INPUTS, MODEL_CARD, PARAMS, SETUP, STATE
from serm.settings import Settings
from serm.step import Figures, step
from serm.steps import STEPS
from serm.workspace import provenance, registry
from serm.workspace.begin import set_apart
from serm.workspace.clone import Clone
from serm.workspace.origin import committed, push, require_new
from serm.workspace.pins import digest, pinned
from serm.workspace.progress import Progress
from serm.workspace.store import Workspace, place
from serm.workspace.windows import with_cycle

_SUBJECTS = {
    "passed": "the challenger passed the gate",
    "failed": "the challenger failed the gate",
    "error": "the challenger could not be tried",
}
_LOCALE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]{2,8})*")


@step
def publish(repository: Path | str, outputs: Mapping[str, Path], settings: Settings, run: str = "") -> Figures:
    """Commit and tag a finished cycle, with its model card; a second call with the same bytes changes nothing.

    What is refused is refused before anything is written. DVC's objects are pushed first, then the commit and the tag
    are made, then both are pushed at once: always to a git URL, from a workspace where ``publish.push`` says so.

    Args:
        repository: the workspace: a directory, or a git URL, which is cloned for it.
        outputs: step name -> the directory that it wrote; those already in ``cycle/`` stay where they are.
        settings: the cycle's settings.
        run: the id of the KFP run, for the provenance.

    Returns:
        ``tag`` and ``commit``.

    Raises:
        UserError: an output is missing, the tag exists already with other bytes, the state is past the cycle, HEAD is
            on no branch, another command writes in the workspace, or the repository cannot be had or written.
    """

    def commit(workspace: Workspace) -> Figures:
        summaries = read_summaries(workspace, outputs, STEPS)
        card = model_card(summaries, settings)
        tag, gate = settings.cycle.name, summaries["evaluate"]["gate"]["result"]
        if not is_published(workspace, settings, outputs, STEPS):
            pin(workspace, settings, outputs, summaries, run)
            write_text(workspace.path / MODEL_CARD, card)
            tag_cycle(workspace, tag, STEPS, f"{tag}: {_SUBJECTS.get(gate, gate)}", f"gate: {gate}")
        return pushed(workspace, settings, passed=gate == "passed")

    return committed(repository, "serm publish", settings.publish, commit)


def read_summaries(workspace: Workspace, outputs: Mapping[str, Path], steps: Sequence[str]) -> dict[str, Any]:
    """Return the summaries of the steps' outputs; nothing is written.

    Raises:
        UserError: the workspace cannot take a commit, an output was not given or is not there, or its summary is not.
    """
    workspace.require_branch()
    if missing := sorted(set(steps) - set(outputs)):
        raise UserError(f"{workspace.path}: the outputs of {', '.join(missing)} were not given to be published.")
    return {name: summary(outputs[name], name) for name in steps}


def is_published(workspace: Workspace, settings: Settings, outputs: Mapping[str, Path], steps: Sequence[str]) -> bool:
    """Tell whether the cycle is tagged already, with these outputs and these settings.

    Raises:
        UserError: it is tagged with others, or by the remote alone, or not tagged though the state is past it.
    """
    tag = settings.cycle.name
    if isinstance(workspace, Clone):
        workspace.fetch_tags(workspace.tag(tag), registry.version(workspace, tag))
    if not workspace.has_tag(tag):
        progress = Progress.read(workspace.path)
        if progress.is_past(tag):
            raise UserError(
                f"{workspace.path}: the state is past {progress.after} already; set cycle.number in params.yaml to a"
                " later cycle's."
            )
        if settings.publish.push and not isinstance(workspace, Clone):
            require_new(workspace, settings.publish.remote, workspace.tag(tag))
        return False
    pins = pinned(workspace, tag)
    changed = [f"cycle/{name}" for name in steps if pins.get(f"cycle/{name}") != digest(outputs[name])]
    if not _says(workspace.show(tag, str(PARAMS)), settings, but="publish"):  # where it goes is no part of it
        changed.append(str(PARAMS))
    if changed:
        raise UserError(
            f"{workspace.path}: {workspace.tag(tag)} exists already and {', '.join(changed)} differ from it; "
            f"set cycle.number in params.yaml to the next number, or delete the tag to publish again."
        )
    return True


def pin(
    workspace: Workspace, settings: Settings, outputs: Mapping[str, Path], summaries: Mapping[str, Any], run: str
) -> None:
    """Put the outputs into ``cycle/``, pin them with DVC, and write the cycle's history and provenance."""
    _write_settings(workspace, settings)
    elsewhere = [name for name in summaries if not outputs[name].resolve().is_relative_to(workspace.path / CYCLE)]
    if elsewhere and not isinstance(workspace, Clone):
        set_apart(workspace.path)  # steps that ran elsewhere read the state itself
    for name in summaries:
        place(outputs[name], workspace.path / CYCLE / name)
    workspace.thaw()
    workspace.pin(("begin", *summaries))
    workspace.freeze([name for name in STEPS if name not in summaries])
    history = workspace.path / HISTORY / settings.cycle.name
    written = {f"{name}.json" for name in summaries}
    for left in [path for path in history.glob("*") if path.name not in written]:
        left.unlink()  # of a trial under this tag, which was deleted, or of a publish that was killed
    for name, figures in summaries.items():
        write_json(history / f"{name}.json", figures)
    told = provenance.statement(workspace, settings, [*summaries], run)
    write_json(workspace.path / provenance.path_of(settings.cycle.name), told)


def _write_settings(workspace: Workspace, settings: Settings) -> None:
    """Make a clone's params.yaml what the cycle ran with; a workspace's must be that already, but for the window.

    ``serm submit watch`` ends a window early where it drifted, and leaves params.yaml as it is where it did not.
    """
    path = workspace.path / PARAMS
    text = path.read_text(encoding="utf-8")
    if _says(text, settings):
        return
    if not isinstance(workspace, Clone) and not _says(text, settings, but="cycle"):
        raise UserError(f"{path}: not the settings that the cycle ran with; bring those back, or run its steps again.")
    text = with_cycle(text, settings.cycle, str(path))
    if not _says(text, settings):
        text = yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    write_text(path, text)


def _says(text: str, settings: Settings, but: str = "") -> bool:
    """Whether the text of a params.yaml has these settings; its section ``but`` may differ, its cycle be an earlier."""
    try:
        told = params.parse(text)
    except UserError:  # another SERM wrote it
        return False
    if but and told.cycle.number <= settings.cycle.number:
        told = told.model_copy(update={but: getattr(settings, but)})
    return told == settings


def tag_cycle(workspace: Workspace, tag: str, steps: Sequence[str], message: str, said: str) -> None:
    """Push DVC's objects, commit what DVC pinned, the summaries and the pointers of what the cycle read, and tag it."""
    workspace.push_objects(steps)
    ignores = (CYCLE / ".gitignore", CYCLE / "state" / ".gitignore")
    own = (*SETUP, "dvc.yaml", "dvc.lock", PARAMS, *ignores, MODEL_CARD, HISTORY / tag, provenance.path_of(tag))
    workspace.commit(message, (*own, *workspace.pointers(*INPUTS, *STATE)))
    workspace.git("tag", "--annotate", workspace.tag(tag), "--message", f"SERM {tag}, {said}")


def pushed(workspace: Workspace, settings: Settings, passed: bool) -> Figures:
    """Register a model that passed, push what was not pushed yet, and return the cycle's git tag and its commit.

    ``version`` is the git tag of the model's version, where one was registered.
    """
    tag = workspace.tag(settings.cycle.name)
    made = registry.register(workspace, settings.cycle.name) if passed else []
    push(workspace, settings.publish, [tag, *made])
    figures: Figures = {"tag": tag, "commit": workspace.git("rev-list", "-n", "1", tag)}
    return figures | ({"version": made[0]} if made else {})


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

    It stands in the card and the provenance only, which git keeps: an output that names it would change with it.
    """
    commit = provenance.code().get("digest", {}).get("gitCommit", "not known (not a git checkout)")
    return f"version {version('serm')}, commit {commit}"
