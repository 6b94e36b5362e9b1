"""Fine-tune a challenger on new, earlier and seed judgments."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def train(
    champion: dsl.Input[dsl.Model],
    judgments: dsl.Input[dsl.Dataset],
    annotated: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Dataset],
    settings: str,
    kept: str,
    trained: dsl.Output[dsl.Model],
    figures: dsl.Output[dsl.Metrics],
):
    """Fine-tune a challenger on new, earlier and seed judgments."""
    from pathlib import Path

    from serm.settings import parse
    from serm.training import train

    figures.metadata.update(
        train(
            Path(champion.path),
            Path(judgments.path),
            Path(annotated.path),
            Path(validated.path),
            Path(trained.path),
            parse(settings),
            Path(kept) if kept else None,
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
