"""A saved model's directory: its files, and config.json, which holds their sha256 and says how to read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serm.errors import UserError
from serm.relevance.interface import Scores, Servable
from serm.relevance.repository import is_inside, refuse_code_in, require_safetensors

FORMAT = 3
_LONG = "a " * 600
"""More tokens than any model reads."""
TOLERANCE = 0.1
"""How far a golden score, an expected grade of 0 to 3, may be off on another machine. bf16 beside fp32 moved one by at
most 0.009 in three trained champions; int8 whose sums overflow (CPUs without VNNI) and wrong kernels do by far more."""
_GOLDEN = (
    ("red shoes", "Red running shoes for women, size 38"),
    ("red shoes", "Garden hose, 20 m, green"),
    ("wireless keyboard", "Keyboard without wires, German layout, for tablet and PC"),
    ("grinning cat", "grinning cat with smiling eyes"),
    ("zapatos rojos", "Rote Schuhe aus Leder, Größe 42"),
    ("腕時計", "防水の腕時計 メンズ"),
    ("x", ""),
    ("how to boil an egg", "Put the egg into boiling water, wait for eight minutes, take it out. " * 20),
)
"""Short and long, near and far, of several scripts: a model need not rank them well, only as it did before."""


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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}/config.json: not JSON ({error}); restore it with dvc checkout.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        require_safetensors(path)
        found = config.get("format") if isinstance(config, dict) else None
        raise UserError(f"{path}/config.json: format {found!r}, expected {FORMAT}; train the model again.")
    refuse_code_in(config, path / "config.json")
    hashes = config.get("sha256")
    if not isinstance(hashes, dict) or not all(map(is_inside, hashes)):
        raise UserError(f"{path}/config.json: sha256 does not name the model's files; restore it with dvc checkout.")
    if missing := [name for name in hashes if not (path / name).is_file()]:
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


def limits(config: Mapping[str, Any], path: Path) -> None:
    """Check what a config of any family has: ``max_tokens`` and ``batch_tokens`` and, where it is there, a temperature.

    Raises:
        UserError: one is not a number that a model can work with.
    """
    for name in ("max_tokens", "batch_tokens"):
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**7:
            raise UserError(f"{path}/config.json: {name} is not a number of tokens; restore it with dvc checkout.")
    heat = config.get("temperature", 1.0)
    if not isinstance(heat, int | float) or not 1e-3 <= heat <= 1e3:
        raise UserError(f"{path}/config.json: temperature is not 0.001 to 1,000; restore it with dvc checkout.")


def golden(model: Servable) -> dict[str, Any]:
    """Return the golden batch of a model that is being saved: texts, and its expected grades for them."""
    queries, documents = map(list, zip(*_GOLDEN, strict=True))
    expected = _as_served(model, queries, documents).expected
    return {"queries": queries, "documents": documents, "expected": [round(float(one), 4) for one in expected]}


def prove(model: Servable, path: Path, config: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    """Score what a model must be able to score before it is relied upon, by the way that serving scores.

    A long pair and an empty one must give distributions, and the golden batch of its config the scores that it had when
    it was saved, within ``tolerance``. A model that an earlier SERM saved has no golden batch.

    Raises:
        UserError: they do not.
    """
    rows = _as_served(model, [_LONG, ""], [_LONG, ""]).distribution
    if not (np.isfinite(rows).all() and (rows >= -1e-6).all() and np.allclose(rows.sum(1), 1, atol=1e-6)):
        raise UserError(f"{path}: its scores are no distributions over the grades; train or export the model again.")
    if "golden" not in config:
        return
    queries, documents, expected = _golden_of(config["golden"], path)
    apart = float(np.abs(_as_served(model, queries, documents).expected - expected).max())
    if not apart <= tolerance:
        raise UserError(
            f"{path}: its golden batch is scored up to {apart:.2f} apart from what it was when the model was saved"
            f" (at most {tolerance}); this machine or these packages do not compute it right: take the packages that it"
            " was trained with, or export it as fp32."
        )


def _as_served(model: Servable, queries: list[str], documents: list[str]) -> Scores:
    return model.score_read(model.read(queries, documents))


def _golden_of(batch: Any, path: Path) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Return the parts of a golden batch from a config that anybody may have written."""
    parts: list[Any] = [
        batch.get(name) if isinstance(batch, dict) else None for name in ("queries", "documents", "expected")
    ]
    kinds = (str, str, int | float)
    right = all(
        isinstance(part, list) and 0 < len(part) <= 1_000 and all(isinstance(one, kind) for one in part)
        for part, kind in zip(parts, kinds, strict=True)
    )
    if not right or len({len(part) for part in parts}) != 1:
        raise UserError(f"{path}/config.json: golden is no batch of texts and grades; restore it with dvc checkout.")
    queries, documents, expected = parts
    return queries, documents, np.array(expected, np.float64)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()[:12]
