"""Commit and tag a window in which nothing drifted."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def record(
    repository: str,
    window: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Dataset],
    drifted: dsl.Input[dsl.Artifact],
    settings: str,
    figures: dsl.Output[dsl.Metrics],
):
    """Commit and tag a window in which nothing drifted."""
    from pathlib import Path

    from serm import settings as params
    from serm.monitoring import snapshots
    from serm.workspace.record import record

    outputs = {"ingest": Path(window.path), "validate": Path(validated.path), "drift": Path(drifted.path)}
    given = params.parse(settings)
    recorded = record(Path(repository), outputs, given)
    snapshots.add(Path(repository), given.cycle.name, Path(drifted.path) / "snapshot.json")
    figures.metadata.update(recorded)
    Path(figures.path).touch()  # kfp.local takes a step from its cache only if each of its outputs is there
