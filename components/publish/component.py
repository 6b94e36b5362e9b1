"""Commit and tag the cycle in git, with every byte pinned by DVC."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def publish(
    repository: str,
    window: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Dataset],
    drifted: dsl.Input[dsl.Artifact],
    mined: dsl.Input[dsl.Dataset],
    annotated: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Artifact],
    settings: str,
    figures: dsl.Output[dsl.Metrics],
):
    """Commit and tag the cycle in git, with every byte pinned by DVC."""
    from pathlib import Path

    from serm import settings as params
    from serm.monitoring import snapshots
    from serm.workspace.publish import publish

    outputs = {
        "ingest": Path(window.path),
        "validate": Path(validated.path),
        "drift": Path(drifted.path),
        "mine": Path(mined.path),
        "annotate": Path(annotated.path),
        "train": Path(trained.path),
        "evaluate": Path(evaluated.path),
    }
    given = params.parse(settings)
    published = publish(Path(repository), outputs, given)
    snapshots.add(Path(repository), given.cycle.name, Path(drifted.path) / "snapshot.json")
    figures.metadata.update(published)
    Path(figures.path).touch()  # kfp.local takes a step from its cache only if each of its outputs is there
