"""What other packages register as entry points: mining agents, judges, click models, traffic backends.

It takes both an installation and a name in params.yaml: nothing is imported that no setting names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from serm.errors import UserError

Group = Literal["serm.agents", "serm.judges", "serm.click_models", "serm.traffic"]


def load(group: Group, names: Sequence[str], taken: Collection[str], setting: str) -> dict[str, Any]:
    """Import what installed packages register in ``group`` under ``names``; in their order.

    Args:
        group: the entry points' group.
        names: those that ``setting`` names.
        taken: SERM's own names, which nobody else may register.
        setting: the field of params.yaml, for errors.

    Raises:
        UserError: nobody registers a name, two packages do, it is taken, it is no callable, or its import fails.
    """
    return {name: _load(_only(group, name, taken, setting), setting) for name in names}


def versions(group: Group, names: Sequence[str]) -> dict[str, str]:
    """Return the package and version that registers each of ``names``, for example ``dwell-agent 1.2``."""
    return {name: _package(entry) for name in names for entry in entry_points(group=group, name=name)}


def _only(group: Group, name: str, taken: Collection[str], setting: str) -> EntryPoint:
    found = list(entry_points(group=group, name=name))
    packages = " and ".join(sorted({_package(entry) for entry in found}))
    if not found:
        known = ", ".join(sorted({repr(entry.name) for entry in entry_points(group=group)})) or "nothing"
        raise UserError(
            f"{setting}: no installed package registers {name!r} as an entry point of {group} (found: {known}); "
            "install the package that brings it, or take the name out."
        )
    if name in taken:
        raise UserError(f"{setting}: {name!r} of {packages} is a name of SERM's own; the package must take another.")
    if len(found) > 1:
        raise UserError(f"{setting}: {name!r} is registered in {group} by {packages}; uninstall one of them.")
    return found[0]


def _load(entry: EntryPoint, setting: str) -> Any:
    try:
        loaded = entry.load()
    except Exception as error:  # whatever a stranger's module raises when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{setting}: {entry.name!r} of {_package(entry)} ({entry.value}) cannot be imported ({reason}); mend or "
            "uninstall that package, or take the name out."
        ) from error
    if not callable(loaded):
        raise UserError(
            f"{setting}: {entry.name!r} of {_package(entry)} ({entry.value}) cannot be called; its entry point must "
            "name a function or a class."
        )
    return loaded


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed package"
