"""What a model repository may hold. Whoever wrote it, loading it runs no code of its own and reads nothing beside it.

Weights are safetensors: pickled ones can run code when loaded, and are never read. A repository whose config names
Python files, which transformers would ask to run, is refused, and nobody is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serm.errors import UserError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_PART = re.compile(r"[^\\\x00-\x1f\x7f]+")
_CODE = ("auto_map", "custom_pipelines")
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")


def require_safetensors(folder: Path) -> None:
    """Refuse a directory whose weights are missing or pickled, an index of shards that names pickles included.

    Raises:
        UserError: as said.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            shards = {str(name) for name in read_json(index)["weight_map"].values()}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: not an index of shards; download the model again.") from error
        if outside := sorted(name for name in shards if not is_inside(name)):
            raise UserError(f"{index}: names {', '.join(outside)}, which is not in its directory.")
        if others := sorted(name for name in shards if Path(name).suffix != ".safetensors"):
            raise UserError(f"{index}: names {_pickled(others)}")
        if lost := sorted(name for name in shards if not (folder / name).is_file()):
            raise UserError(f"{folder}: {', '.join(lost)} is missing; download the model again.")
    if any(folder.glob("*.safetensors")):
        return
    if found := sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in PICKLED):
        raise UserError(f"{folder}: holds {_pickled(found)}")
    raise UserError(f"{folder}: no model there (no safetensors).")


def _pickled(names: list[str]) -> str:
    return f"pickled weights ({', '.join(names)}), which can run code when loaded; convert them to safetensors."


def refuse_code(folder: Path) -> None:
    """Refuse a model repository whose configs name code of its own, which transformers would ask to run, or another's.

    Raises:
        UserError: a config names Python files or a kernel of the hub, is no JSON, or makes the repository an adapter.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: an adapter, whose config names another model; merge it into its model and save that."
        )
    for file in sorted(folder.glob("*.json")):
        if file.name.endswith("config.json"):
            refuse_code_in(read_json(file), file)


def refuse_code_in(config: Any, file: Path) -> None:
    """Refuse a config, read from ``file``, in which anything at any depth names code; raises ``UserError``."""
    inside = [config]
    while inside:
        value = inside.pop()
        if isinstance(value, dict):
            named = [key for key in _CODE if value.get(key)]
            named += [key for key in _KERNELS if "/" in str(value.get(key))]
            if named:
                raise UserError(
                    f"{file}: {named[0]} names code that is not transformers' own, and SERM never runs a model"
                    " repository's code; take a model of an architecture that transformers has."
                )
            inside += value.values()
        elif isinstance(value, list):
            inside += value


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{file}: not JSON ({reason}); download or restore the model again.") from error


@contextmanager
def panics_told(what: str) -> Iterator[None]:
    """Tell a panic in a library written in Rust, which ``except Exception`` lets through, as a ``UserError``."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} cannot be read ({reason(error)}); download or restore the model again.") from error


def reason(error: BaseException) -> str:
    """Return an error of a library as the first line of what it says, at most 200 characters."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}"[:200].removesuffix(": ")


def fitting(config: Any, file: Path, tensors: int) -> None:
    """Refuse a config that would build more layers than there are tensors, before the first is built.

    Raises:
        UserError: as said; or it is no JSON object.
    """
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected a JSON object; download or restore the model again.")
    for name in _LAYERS:
        layers = config.get(name, 1)
        if not isinstance(layers, int) or not 0 <= layers <= tensors:
            raise UserError(f"{file}: {name} is not the number of layers of its {tensors} tensors.")


def tensor_count(folder: Path) -> int:
    """Return how many tensors the safetensors files of ``folder`` hold.

    Raises:
        UserError: one of them is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as opened:
                count += len(list(opened.keys()))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: not safetensors ({error}); download or restore the model again.") from error
    return count


def is_plain(part: str) -> bool:
    """Whether a part of a path or an address is a name: no way up, no option, no backslash, no control character."""
    return bool(_PART.fullmatch(part)) and part not in (".", "..") and not part.startswith("-")


def is_inside(name: str) -> bool:
    """Whether a file's name, written with slashes, stays below the directory that it is relative to."""
    return all(is_plain(part) for part in name.split("/"))
