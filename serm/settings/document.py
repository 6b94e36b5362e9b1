"""The text of params.yaml as plain values: what YAML lets pass without a word is refused with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from serm.errors import UserError

_MAX_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, and aliases, of which a few lines can stand for billions."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="an alias (*) is not read; write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if (key.tag, key.value if isinstance(key.value, str) else id(key)) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value if isinstance(key.value, str) else id(key)))
        return super().construct_mapping(node, deep)


def _missing(path: Path) -> UserError:
    return UserError(
        f"{path}: no such file; go to a workspace (`serm init` and `serm demo` make one), or give the path with"
        " --params."
    )


def read_text(path: Path) -> str:
    """Return the text of the file ``path``.

    Raises:
        UserError: it is no file, cannot be read, is too large, or is not UTF-8.
    """
    if not path.exists():
        raise _missing(path)
    if not path.is_file():
        raise UserError(f"{path}: no regular file; give the path with --params.")
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path with --params.") from error
    if len(text) > _MAX_BYTES:
        raise UserError(f"{path}: larger than {_MAX_BYTES >> 20} MB, which no params.yaml is.")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not UTF-8; save the file as UTF-8.") from error


def sections(text: str, name: str) -> dict[str, Any]:
    """Return the sections that ``text`` holds as YAML; ``name`` stands for the file in errors.

    Raises:
        UserError: it is not YAML, has a key twice or an alias, or is no mapping.
    """
    try:
        values = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{name}: {line}not YAML that is read here: {error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise UserError(f"{name}: not YAML that is read here: nested too deep.") from error
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected sections such as 'cycle:', found {type(values).__name__}.")
    return values
