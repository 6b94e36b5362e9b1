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
from serm.settings import Settings
from serm.step import Figures, step
from serm.workspace.layout import STEPS
from serm.workspace.store import Workspace, place

_LOCALE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]{2,8})*")


@step
def publish(repository: Path, outputs: Mapping[str, Path], settings: Settings) -> Figures:
    """Commit and tag a finished cycle, with its model card; a second call with the same bytes changes nothing.

    Args:
        repository: the workspace.
        outputs: step name -> the directory that it wrote; those already in ``cycle/`` stay where they are.
        settings: the cycle's settings.

    Returns:
        ``tag`` and ``commit``.

    Raises:
        UserError: an output is missing, or the tag exists already with other bytes.
    """
    workspace = Workspace(repository)
    summaries = placed(workspace, outputs, STEPS)
    write_text(workspace.path / "cycle" / "model_card.md", model_card(summaries, settings))
    workspace.dvc("commit", "--quiet", "--force")
    workspace.git("add", "cycle/model_card.md")
    gate = summaries["evaluate"]["gate"]["result"]
    subject = f"the challenger {gate} the gate" if gate != "inconclusive" else gate
    return tagged(workspace, settings.cycle.name, summaries, subject, f"gate: {gate}")


def placed(workspace: Workspace, outputs: Mapping[str, Path], steps: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Put the steps' outputs into ``cycle/``, and return their summaries."""
    if missing := sorted(set(steps) - set(outputs)):
        raise UserError(f"{workspace.path}: the outputs of {', '.join(missing)} were not given to be published.")
    for name in steps:
        place(outputs[name], workspace.path / "cycle" / name)
    return {name: summary(workspace.path, name) for name in steps}


def tagged(
    workspace: Workspace, tag: str, summaries: Mapping[str, Mapping[str, Any]], subject: str, said: str
) -> Figures:
    """Commit what DVC pinned and the summaries, tag it, and push to DVC's remote if there is one."""
    for name, figures in summaries.items():
        write_json(workspace.path / "history" / tag / f"{name}.json", figures)
    workspace.git("add", "dvc.yaml", "dvc.lock", "params.yaml", "cycle/.gitignore", "history")
    if workspace.has_tag(tag):
        _require_same(workspace, tag)
    else:
        workspace.commit(f"{tag}: {subject}")
        workspace.git("tag", "--annotate", tag, "--message", f"SERM {tag}, {said}")
    if workspace.has_remote():
        workspace.dvc("push", "--quiet")
    return {"tag": tag, "commit": workspace.git("rev-list", "-n", "1", tag)}


def _require_same(workspace: Workspace, tag: str) -> None:
    changed = workspace.git("diff", "--cached", "--name-only", tag, "--", "dvc.lock", "params.yaml")
    if changed:
        raise UserError(
            f"{workspace.path}: {tag} exists already and {', '.join(changed.split())} differ from it; "
            f"set cycle.number in params.yaml to the next number, or delete the tag to publish again."
        )


def summary(workspace: Path, name: str) -> dict[str, Any]:
    """Return the JSON summary that a step wrote into ``cycle/<step>``."""
    names = {"validate": "validation", "mine": "mining", "annotate": "panel", "evaluate": "evaluation"}
    path = workspace / "cycle" / name / f"{names.get(name, name)}.json"
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
