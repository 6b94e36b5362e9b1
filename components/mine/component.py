"""Mine the few pairs of the window that are worth a judge's time."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def mine(
    validated: dsl.Input[dsl.Dataset],
    reference: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Model],
    judgments: dsl.Input[dsl.Dataset],
    tests: dsl.Input[dsl.Dataset],
    settings: str,
    kept: str,
    mined: dsl.Output[dsl.Dataset],
    figures: dsl.Output[dsl.Metrics],
):
    """Mine the few pairs of the window that are worth a judge's time."""
    from pathlib import Path

    from serm.mining import mine
    from serm.settings import parse

    figures.metadata.update(
        mine(
            Path(validated.path),
            Path(reference.path),
            Path(champion.path),
            Path(judgments.path),
            Path(tests.path),
            Path(mined.path),
            parse(settings),
            Path(kept) if kept else None,
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
