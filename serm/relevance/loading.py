"""Reading a saved model, whatever its family and wherever it stands."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from serm.errors import UserError
from serm.relevance.location import local
from serm.relevance.repository import panics_told, reason
from serm.relevance.saved import read_config

if TYPE_CHECKING:
    from serm.relevance.interface import Model, Servable
    from serm.settings import RelevanceSettings

#: Family -> the module that reads it; imported when a model is of that family.
_TRAINED = {"cross-encoder": "model", "generative": "generative"}
_READERS = {**_TRAINED, "exported": "exported"}


def load(location: Path | str, kept: RelevanceSettings | None = None) -> Model:
    """Load a trained model from a directory, or from where ``serm.relevance.location`` says (hub, DVC tag, package).

    With ``kept``, whose ``cache`` and ``cache_mb`` are read, its encoder is the one that a cycle's steps share, which
    keeps what it encodes; without, the one that is quickest on few texts.

    Raises:
        UserError: there is no model there, its weights are pickled or not finite, its config names code, it has another
            format, a file of it is missing, broken or was changed, or it was exported and only serves.
    """
    return cast("Model", _read(location, _TRAINED, kept))


def load_scorer(location: Path | str) -> Servable:
    """Load a model that serves, a trained or an exported one.

    Raises:
        UserError: as ``load`` does, or what runs the model is not installed.
    """
    try:
        return _read(location, _READERS)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{location}: needs {error.name}, which is not installed here; a trained model is served with serm[train]"
            " (the image serm-train), an export with serm[serve], or serm[export] if it was made for ONNX Runtime."
        ) from error


def _read(location: Path | str, readers: dict[str, str], kept: RelevanceSettings | None = None) -> Servable:
    path = local(location)
    config, version = read_config(path)
    family = config.get("family")
    if not isinstance(family, str) or family not in readers:
        raise UserError(f"{path}/config.json: family {family!r}, expected {' or '.join(readers)}.")
    reader = import_module(f"serm.relevance.{readers[family]}")
    keeping = () if kept is None else (kept,)  # an exported model has no encoder whose work could be kept
    try:
        with panics_told(str(path)):
            return cast("Servable", reader.read_model(path, config, version, *keeping))
    except (UserError, ModuleNotFoundError):  # the latter is an extra that is not installed
        raise
    except Exception as error:  # whatever the libraries make of a config, tokenizer or graph that somebody made by hand
        raise UserError(
            f"{path}: cannot be read as a {family} model ({reason(error)}); restore it with dvc checkout."
        ) from error
