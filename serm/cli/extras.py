"""Which extra of SERM brings a package, as SERM's own metadata says."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import suppress

_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^]]*)])?[^;]*(?:;.*extra\s*==\s*['\"]([^'\"]+)['\"])?")


def requirements() -> dict[str, list[str]]:
    """Return extra -> the distributions that it brings, those of the extras that it names included; "" is the core.

    Raises:
        importlib.metadata.PackageNotFoundError: SERM itself is not installed.
    """
    own: dict[str, list[str]] = {"": []}
    named: dict[str, list[str]] = {}
    for text in importlib.metadata.requires("serm") or []:
        if match := _REQUIREMENT.match(text):
            name, extras, extra = match[1], match[2] or "", match[3] or ""
            own.setdefault(extra, [])
            if name == "serm":
                named.setdefault(extra, []).extend(one.strip() for one in extras.split(","))
            else:
                own[extra].append(name)
    return {extra: sorted({name for one in _closure(extra, named) for name in own[one]}) for extra in own}


def _closure(extra: str, named: dict[str, list[str]]) -> set[str]:
    return {extra}.union(*(_closure(one, named) for one in named.get(extra, [])))


def extra_of(module: str) -> str | None:
    """Return the extra that brings the import name ``module``, the one with the fewest packages: "" is the core.

    A package that an extra's own packages need counts too, as far as these are installed. None if nothing brings it.
    """
    top = module.partition(".")[0]
    names = {_key(top), *map(_key, importlib.metadata.packages_distributions().get(top, []))}
    try:
        brought = requirements()
    except importlib.metadata.PackageNotFoundError:
        return None
    for needed in (set, _needed, _namespaces):
        found = [extra for extra, packages in brought.items() if names & set(map(_key, needed(packages)))]
        if found:
            return min(found, key=lambda extra: (extra != "", len(brought[extra])))
    return None


def _namespaces(packages: list[str]) -> set[str]:
    """What ``packages`` share an import name under, as opentelemetry-sdk does: their names' first words."""
    return {package.partition("-")[0] for package in packages}


def _needed(packages: list[str]) -> set[str]:
    """``packages`` and what they need, and what these need, as the metadata of those that are installed says."""
    seen, todo = set[str](), list(packages)
    while todo:
        if (package := todo.pop()) not in seen:
            seen.add(package)
            with suppress(importlib.metadata.PackageNotFoundError):
                matches = map(_REQUIREMENT.match, importlib.metadata.requires(package) or [])
                todo += [match[1] for match in matches if match and not match[3]]
    return seen


def _key(name: str) -> str:
    """What names of a package for import and for pip share: crowdkit and crowd-kit, sklearn and scikit-learn, yaml."""
    bare = re.sub(r"[-_.]", "", re.sub(r"^(python-|py)", "", re.sub(r"^scikit-", "sk", name.lower())))
    return "grpc" if bare == "grpcio" else bare
