"""constraints.txt pins all of a developer's environment: `pip install --constraint constraints.txt -e .[all,dev]`."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = {
    canonicalize_name(line.partition("==")[0].strip()): line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line[:1].isalnum()
}


#: What PyPI's build of torch needs, and the pinned one without CUDA does not.
CUDA = ("cuda-", "nvidia-", "triton")


def reached() -> dict[str, str]:
    """What pip installs for SERM and all its extras, by what asks for it, as the metadata of what is installed says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: own for name, own in project["optional-dependencies"].items() if name != "local-llm"}
    todo = [(Requirement(text), "serm") for own in (project["dependencies"], *extras.values()) for text in own]
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted, by = todo.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen or name == "serm":
            continue
        seen.add((name, frozenset(wanted.extras)))
        found.setdefault(name, by)
        try:
            needs = map(Requirement, requires(name) or [])
        except PackageNotFoundError:
            continue
        for one in needs:
            if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in wanted.extras or {""}):
                todo.append((one, name))
    return found


def test_each_package_of_a_developer_s_environment_has_a_pin() -> None:
    found = reached()
    assert len(found) > 300
    assert {name: f"for {by}" for name, by in found.items() if name not in PINS and not name.startswith(CUDA)} == {}
    assert {name for name, line in PINS.items() if "==" not in line} == set()
