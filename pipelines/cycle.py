"""What the pipelines share: the steps of a cycle, as their table wires them, and the repository they start from."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from kfp import dsl
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from components import repository as on_repository
from serm import steps
from serm.steps import Data, Step

#: KFP mounts the run's volume for each task that is given a path on it.
KEPT = f"{WORKSPACE_MOUNT_PATH}/kept"
#: The volume that a run's steps share; `serm submit` sets its size and class.
VOLUME = dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="20Gi"))


def add(step: Step, data: dict[Data, Any], parameters: Mapping[str, Any]) -> dsl.PipelineTask:
    """Add the task of ``step``: it takes what other tasks have put into ``data``, and puts there what it writes."""
    component = getattr(import_module(f"components.{step.name}.component"), step.name)
    taken = {name: given for name, given in parameters.items() if name in component.component_spec.inputs}
    task = component(**taken, **{one.name: data[one] for one in step.reads})
    if step.writes:
        data[step.writes] = task.outputs[step.writes.name]
    return task.set_cpu_request(step.cpu).set_memory_request(step.memory)


def add_watch(data: dict[Data, Any], parameters: Mapping[str, Any]) -> Any:
    """Add the steps that every window goes through; return what the last of them decides: ``evolve`` or ``quiet``."""
    for step in steps.WATCHING:
        decided = add(step, data, parameters)
    return decided.outputs["Output"]  # kfp.local can only branch on a component's plain return value, so called by KFP


def add_rest(data: dict[Data, Any], parameters: Mapping[str, Any]) -> dsl.PipelineTask:
    """Add the steps of a window that drifted, up to the canary; return the last task."""
    for step in steps.STAGES[len(steps.WATCHING) :]:
        add(step, data, parameters)
    published = add(steps.PUBLISH, data, parameters).set_caching_options(False)
    return add(steps.DEPLOY, data, parameters).after(published).set_caching_options(False)


def add_next_cycle(where: Mapping[str, Any], force: bool, early: bool) -> dsl.PipelineTask:
    """Add the repository's next cycle, from its clone to the state that is past it; return its first task.

    Args:
        where: ``repository``, the git URL or path, its ``branch``, and the workspace's ``directory`` in it.
        force: run the whole cycle though nothing drifted.
        early: look at a window that is not full yet; where nothing drifted, leave it to go on.
    """
    place = {**where, "volume": dsl.WORKSPACE_PATH_PLACEHOLDER}
    begun = light(on_repository.checkout(**place, early=early), "3Gi")
    with dsl.If(begun.outputs["Output"] == "cycle", name="covered"):
        data = {one: begun.outputs[one.name] for one in steps.GIVEN}
        settings = begun.outputs["settings"]
        parameters = {"settings": settings, "repository": where["repository"], "force": force, "kept": KEPT}
        parameters["run"] = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        decided = add_watch(data, parameters)
        with dsl.If(decided == "evolve", name="drifted"):
            last = add_rest(data, parameters)
            light(on_repository.advance(**place, settings=settings), "3Gi").after(last)
        if not early:
            with dsl.Else(name="quiet"):
                last = add(steps.RECORD, data, parameters).set_caching_options(False)
                light(on_repository.advance(**place, settings=settings), "3Gi").after(last)
    return begun


def leaving_a_report(**where: Any) -> dsl.ExitHandler:
    """Return what adds a report to its block's tasks, however they end.

    ``where``: ``repository``, and of a git URL ``branch`` and ``directory``, or the ``settings`` that say them.
    """
    task = on_repository.report(**where, volume=dsl.WORKSPACE_PATH_PLACEHOLDER)
    return dsl.ExitHandler(light(task, "2Gi"), name="run")


def light(task: dsl.PipelineTask, memory: str) -> dsl.PipelineTask:
    """Ask for what a task of the repository needs; what the repository holds changes, so it is never cached."""
    return task.set_cpu_request("1").set_memory_request(memory).set_caching_options(False)
