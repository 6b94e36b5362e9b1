"""Check a window and the catalogue against their contracts; bad rows go to quarantine."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.DATA, install_kfp_package=False)
def validate(
    window: dsl.Input[dsl.Dataset],
    documents: dsl.Input[dsl.Dataset],
    settings: str,
    validated: dsl.Output[dsl.Dataset],
    figures: dsl.Output[dsl.Metrics],
):
    """Check a window and the catalogue against their contracts; bad rows go to quarantine."""
    from pathlib import Path

    from serm import settings as params
    from serm import validation

    figures.metadata.update(
        validation.validate(Path(window.path), Path(documents.path), Path(validated.path), params.parse(settings))
    )
    Path(figures.path).touch()  # kfp.local takes a step from its cache only if each of its outputs is there
