"""The evolution cycle: from one window of the stream to a tagged challenger in a canary, as the table of steps says."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from kfp import dsl
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from serm import steps
from serm.steps import Data, Step

#: KFP mounts the run's volume for each task that is given a path on it.
KEPT = f"{WORKSPACE_MOUNT_PATH}/kept"


def _given(one: Data, uri: str) -> Any:
    return dsl.importer(artifact_uri=uri, artifact_class=getattr(dsl, one.kind)).set_display_name(one.name).output


def _run(step: Step, data: dict[Data, Any], parameters: Mapping[str, Any]) -> dsl.PipelineTask:
    """Add the task of ``step``: it takes what other tasks have put into ``data``, and puts there what it writes."""
    component = getattr(import_module(f"components.{step.name}.component"), step.name)
    taken = {name: given for name, given in parameters.items() if name in component.component_spec.inputs}
    task = component(**taken, **{one.name: data[one] for one in step.reads})
    if step.writes:
        data[step.writes] = task.outputs[step.writes.name]
    return task.set_cpu_request(step.cpu).set_memory_request(step.memory)


@dsl.pipeline(
    name="serm-evolve",
    description="One cycle of SERM: watch, mine, judge, train, prove, publish.",
    pipeline_config=dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="20Gi")),
)
def evolve(
    settings: str,
    log: str,
    documents: str,
    knowledge: str,
    tests: str,
    champion: str,
    judgments: str,
    reference: str,
    profiles: str,
    windows: str,
    repository: str,
    force: bool = False,
    kept: str = KEPT,
):
    """Run one cycle; of a window in which nothing drifted, keep what was found.

    Args:
        settings: the text of params.yaml.
        log: URI of the impressions so far.
        documents: URI of the catalogue.
        knowledge: URI of the judges' outside knowledge.
        tests: URI of the test sets: frozen/ and rolling/, each with served/ and pool/.
        champion: URI of the model that serves now.
        judgments: URI of all judgments so far.
        reference: URI of the impressions that the window is compared with.
        profiles: URI of what the validation of earlier cycles counted.
        windows: URI of the samples of earlier windows.
        repository: path of the git and DVC workspace that the cycle is published to.
        force: run the cycle though nothing drifted.
        kept: directory in which mine and train keep what a killed try of theirs goes on from; on the run's volume,
            which all of its tries see.
    """
    uris = {
        "log": log,
        "documents": documents,
        "knowledge": knowledge,
        "tests": tests,
        "champion": champion,
        "judgments": judgments,
        "reference": reference,
        "profiles": profiles,
        "windows": windows,
    }
    data = {one: _given(one, uris[one.name]) for one in steps.GIVEN}
    parameters = {"settings": settings, "repository": repository, "force": force, "kept": kept}

    for step in steps.WATCHING:
        decided = _run(step, data, parameters)
    # kfp.local can only branch on a component's plain return value, which KFP calls Output.
    with dsl.If(decided.outputs["Output"] == "evolve", name="drifted"):
        for step in steps.STAGES[len(steps.WATCHING) :]:
            _run(step, data, parameters)
        published = _run(steps.PUBLISH, data, parameters).set_caching_options(False)
        _run(steps.DEPLOY, data, parameters).after(published).set_caching_options(False)
    with dsl.Else(name="quiet"):
        _run(steps.RECORD, data, parameters).set_caching_options(False)
