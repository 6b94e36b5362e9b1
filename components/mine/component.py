"""Mine the few pairs of the window that are worth a judge's time."""

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
    mined: dsl.Output[dsl.Dataset],
    figures: dsl.Output[dsl.Metrics],
):
    """Mine the few pairs of the window that are worth a judge's time."""
    from pathlib import Path

    from serm import mining
    from serm import settings as params

    figures.metadata.update(
        mining.mine(
            Path(validated.path),
            Path(reference.path),
            Path(champion.path),
            Path(judgments.path),
            Path(tests.path),
            Path(mined.path),
            params.parse(settings),
        )
    )
    Path(figures.path).touch()  # kfp.local takes a step from its cache only if each of its outputs is there
