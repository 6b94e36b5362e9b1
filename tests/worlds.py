"""Worlds that several files' tests begin from, made once a run; each test copies what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from continual import Continual
    from fake_cluster import FakeCluster

    from serm.settings import Settings
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


@pytest.fixture(scope="session")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of 16 numbers, with random weights."""
    import tiny_models

    root = tmp_path_factory.mktemp("model")
    tiny_models.save(root / "champion", root / "base", 0)
    return root / "champion"


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Such a champion and a challenger, on one encoder."""
    from transforming import save_models

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def upstream(variants: dict[str, Path]) -> Iterator[str]:
    """The address of a predictor that serves both."""
    from serving_here import serving

    from serm.settings.serving import PredictorSettings

    with serving(variants, PredictorSettings()) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document store of ``transforming.TITLES``."""
    from transforming import write_store

    return write_store(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[FakeCluster]:
    """A cluster's API, over HTTP."""
    import fake_cluster

    with fake_cluster.running() as running:
        yield running


@pytest.fixture
def cluster(cluster_server: FakeCluster) -> FakeCluster:
    """A cluster in which nothing is, and nothing fails."""
    server = cluster_server
    for held in (server.objects, server.faults, server.requests, server.forbidden, server.denied):
        held.clear()
    return server


@pytest.fixture(scope="session")
def continual(make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Continual:
    """A champion of the tiny encoder, and judgments that a cycle would train its challenger on."""
    from continual import found

    return found(tmp_path_factory.mktemp("continual"), make_settings)
