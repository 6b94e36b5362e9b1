"""Say what changed since the earlier windows, and whether that is worth a cycle."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def drift(
    reference: dsl.Input[dsl.Dataset],
    windows: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Model],
    settings: str,
    force: bool,
    drifted: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Metrics],
) -> str:
    """Say what changed since the earlier windows, and whether that is worth a cycle."""
    from pathlib import Path

    from serm.drift import drift
    from serm.settings import parse

    figures.metadata.update(
        drift(
            Path(reference.path),
            Path(windows.path),
            Path(validated.path),
            Path(champion.path),
            Path(drifted.path),
            parse(settings),
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
    return "evolve" if force else figures.metadata["decision"]
