"""A saved model's directory: its files, and config.json, which holds their sha256 and says how to read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serm.errors import UserError
from serm.relevance.location import require_safetensors

FORMAT = 3


def finish(beside: Path, config: dict[str, Any]) -> str:
    """Write ``config`` with the files' hashes beside them, and return the model's version."""
    files = sorted(file for file in beside.rglob("*") if file.is_file())
    hashes = {file.relative_to(beside).as_posix(): _sha256(file) for file in files}
    text = json.dumps({"format": FORMAT, **config, "sha256": hashes}, indent=2, sort_keys=True) + "\n"
    (beside / "config.json").write_text(text, encoding="utf-8")
    for file in beside.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return _version(text)


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Return config.json of a saved model and the model's version: 12 hex digits of a hash of that file.

    It holds the hashes of all other files, so the version tells the model's every byte.

    Raises:
        UserError: there is no model, its weights are pickled, it has another format, or a file of it is missing.
    """
    try:
        text = (path / "config.json").read_text(encoding="utf-8")
        config = json.loads(text)
    except OSError as error:
        require_safetensors(path)
        raise UserError(f"{path}: no config.json there; give a model that SERM saved.") from error
    except ValueError as error:
        raise UserError(f"{path}/config.json: not JSON ({error}); restore it with dvc checkout.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        require_safetensors(path)
        found = config.get("format") if isinstance(config, dict) else None
        raise UserError(f"{path}/config.json: format {found!r}, expected {FORMAT}; train the model again.")
    if missing := [name for name in config["sha256"] if not (path / name).is_file()]:
        raise UserError(f"{path}: {', '.join(missing)} is missing; restore it with dvc checkout.")
    return config, _version(text)


def verify(path: Path, config: dict[str, Any], names: Iterable[str]) -> None:
    """Check that the files ``names`` have the bytes that were saved; about 0.9 s a GB.

    Raises:
        UserError: one has not, or was not saved at all.
    """
    for name in names:
        wanted = config["sha256"].get(name)
        if wanted is None or _sha256(path / name) != wanted:
            raise UserError(
                f"{path / name}: cut off or changed (its sha256 is not {str(wanted)[:12]}..., as config.json says);"
                " restore it with dvc checkout."
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()[:12]
