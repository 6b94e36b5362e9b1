"""Have the panel of judges label the mined pairs."""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.JUDGE, install_kfp_package=False)
def annotate(
    mined: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Dataset],
    judgments: dsl.Input[dsl.Dataset],
    knowledge: dsl.Input[dsl.Dataset],
    settings: str,
    annotated: dsl.Output[dsl.Dataset],
    gold: dsl.Output[dsl.ClassificationMetrics],
    figures: dsl.Output[dsl.Metrics],
):
    """Have the panel of judges label the mined pairs."""
    from pathlib import Path

    from serm.judging import annotate
    from serm.kubeflow.labels import confusion
    from serm.settings import parse

    figures.metadata.update(
        annotate(
            Path(mined.path),
            Path(validated.path),
            Path(judgments.path),
            Path(knowledge.path),
            Path(annotated.path),
            parse(settings),
        )
    )
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch()
    gold.log_confusion_matrix(*confusion(Path(annotated.path)))
    Path(gold.path).touch()
