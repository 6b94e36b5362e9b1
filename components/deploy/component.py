"""Write the canary's InferenceService and try both models in the server that KServe runs."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def deploy(
    champion: dsl.Input[dsl.Model],
    trained: dsl.Input[dsl.Model],
    validated: dsl.Input[dsl.Dataset],
    evaluated: dsl.Input[dsl.Artifact],
    settings: str,
    deployed: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Metrics],
):
    """Write the canary's InferenceService and try both models in the server that KServe runs."""
    from pathlib import Path

    from serm.serving.deploy import deploy
    from serm.settings import parse

    figures.metadata.update(
        deploy(
            Path(champion.path),
            Path(trained.path),
            Path(validated.path),
            Path(evaluated.path),
            Path(deployed.path),
            parse(settings),
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
