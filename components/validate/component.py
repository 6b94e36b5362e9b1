"""Check window, catalogue and judgments: bad rows go to quarantine, too many of them stop the run."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.DATA, install_kfp_package=False)
def validate(
    window: dsl.Input[dsl.Dataset],
    documents: dsl.Input[dsl.Dataset],
    judgments: dsl.Input[dsl.Dataset],
    profiles: dsl.Input[dsl.Dataset],
    settings: str,
    validated: dsl.Output[dsl.Dataset],
    figures: dsl.Output[dsl.Metrics],
):
    """Check window, catalogue and judgments: bad rows go to quarantine, too many of them stop the run."""
    from pathlib import Path

    from serm.settings import parse
    from serm.validation import validate

    figures.metadata.update(
        validate(
            Path(window.path),
            Path(documents.path),
            Path(judgments.path),
            Path(profiles.path),
            Path(validated.path),
            parse(settings),
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
