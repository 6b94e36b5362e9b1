"""Worlds that several files' tests begin from, made once a run; each test copies what it changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from serm.workspace.store import Workspace


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world of ``judging_world``, annotated by the offline judges: some pairs are left to people."""
    from judging_world import build, run

    world = tmp_path_factory.mktemp("annotated")
    with pytest.MonkeyPatch.context() as patched:
        run(build(world, patched), agreement="unanimous")
    return world


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A git and DVC workspace with all inputs and a first state, committed."""
    from workspace_world import make

    directory = tmp_path_factory.mktemp("template")
    return make(directory / "shop", directory / "store")


@pytest.fixture
def workspace(template: Workspace, tmp_path: Path) -> Workspace:
    """A copy of ``template``, with a remote of its own."""
    from workspace_world import copy

    return copy(template, tmp_path)
