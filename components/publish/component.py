"""Commit and tag the cycle in git, with every byte pinned by DVC."""

# Written by `make compile` from serm/steps.py.

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
    run: str,
    figures: dsl.Output[dsl.Metrics],
):
    """Commit and tag the cycle in git, with every byte pinned by DVC."""
    from pathlib import Path

    from serm.monitoring.commit import publish
    from serm.settings import parse

    outputs = {
        "ingest": Path(window.path),
        "validate": Path(validated.path),
        "drift": Path(drifted.path),
        "mine": Path(mined.path),
        "annotate": Path(annotated.path),
        "train": Path(trained.path),
        "evaluate": Path(evaluated.path),
    }
    figures.metadata.update(publish(repository, outputs, parse(settings), run))
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
