"""Measure champion and challenger on both test sets, and pass or fail the challenger."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def evaluate(
    champion: dsl.Input[dsl.Model],
    trained: dsl.Input[dsl.Model],
    annotated: dsl.Input[dsl.Dataset],
    tests: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Dataset],
    reference: dsl.Input[dsl.Dataset],
    settings: str,
    evaluated: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Metrics],
):
    """Measure champion and challenger on both test sets, and pass or fail the challenger."""
    from pathlib import Path

    from serm.release import evaluate
    from serm.settings import parse

    figures.metadata.update(
        evaluate(
            Path(champion.path),
            Path(trained.path),
            Path(annotated.path),
            Path(tests.path),
            Path(validated.path),
            Path(reference.path),
            Path(evaluated.path),
            parse(settings),
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
