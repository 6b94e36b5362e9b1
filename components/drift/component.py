"""Say what changed since the earlier windows, and whether that is worth a cycle."""

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
    """Say what changed since the earlier windows; returns evolve or quiet, and evolve when forced."""
    from pathlib import Path

    from serm import drift
    from serm import settings as params

    figures.metadata.update(
        drift.drift(
            Path(reference.path),
            Path(windows.path),
            Path(validated.path),
            Path(champion.path),
            Path(drifted.path),
            params.parse(settings),
        )
    )
    Path(figures.path).touch()  # kfp.local takes a step from its cache only if each of its outputs is there
    return "evolve" if force else figures.metadata["decision"]
