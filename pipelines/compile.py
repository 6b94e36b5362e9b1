"""Compile every pipeline to ``pipelines/compiled/`` and check it: ``python -m pipelines.compile``."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

COMPILED = Path(__file__).parent / "compiled"
PIPELINES = ("evolve", "backfill", "watch", "bootstrap", "rollout")


def compile_all(directory: Path = COMPILED) -> list[Path]:
    """Write each pipeline's IR YAML into ``directory`` and return the files.

    Raises:
        ValueError: a reference in the IR leads nowhere; kfp itself does not look.
    """
    from kfp import compiler

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name in PIPELINES:
        pipeline = getattr(import_module(f"pipelines.{name}"), name)
        path = directory / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        if dangling := list(dangling_references(load_ir(path))):
            raise ValueError(f"{path}: {'; '.join(dangling)}")
        written.append(path)
    return written


def load_ir(path: Path) -> dict[str, Any]:
    """Return the pipeline spec of a compiled pipeline (its first YAML document)."""
    ir: dict[str, Any] = next(iter(yaml.safe_load_all(path.read_text(encoding="utf-8"))))
    return ir


def dangling_references(ir: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for every reference in a pipeline spec that leads nowhere."""
    components = ir["components"]
    executors = ir["deploymentSpec"]["executors"]
    for name, component in components.items():
        if "executorLabel" in component and component["executorLabel"] not in executors:
            yield f"{name} names the executor {component['executorLabel']}, which is not there"
    dags = {"root": ir["root"]} | {name: c for name, c in components.items() if "dag" in c}
    for name, component in dags.items():
        yield from _dangling_in_dag(name, component, components)


def _dangling_in_dag(name: str, component: dict[str, Any], components: dict[str, Any]) -> Iterator[str]:
    tasks = component["dag"]["tasks"]
    given = component.get("inputDefinitions", {})
    for task_name, task in tasks.items():
        where = f"{name}/{task_name}"
        target = components.get(task["componentRef"]["name"])
        if target is None:
            yield f"{where} runs {task['componentRef']['name']}, which is not there"
            continue
        for other in task.get("dependentTasks", []):
            if other not in tasks:
                yield f"{where} depends on {other}, which is not there"
        for kind in ("artifacts", "parameters"):
            passed = task.get("inputs", {}).get(kind, {})
            wanted = target.get("inputDefinitions", {}).get(kind, {})
            for key in passed.keys() - wanted.keys():
                yield f"{where} passes {key}, which its component does not take"
            looped = task.get("parameterIterator", {}).get("itemInput")
            for key, definition in wanted.items():
                if (
                    key != looped
                    and key not in passed
                    and not definition.get("isOptional")
                    and "defaultValue" not in definition
                ):
                    yield f"{where} does not pass {key}, which its component needs"
            for key, source in passed.items():
                if problem := _dangling_source(source, kind, tasks, given, components):
                    yield f"{where} takes {key} from {problem}"
                made = source.get("taskOutputArtifact") or source.get("taskOutputParameter")
                if made and made["producerTask"] not in task.get("dependentTasks", ()):  # it may run before, or beside
                    yield f"{where} takes {key} from {made['producerTask']}, but does not wait for it"


def _dangling_source(
    source: dict[str, Any], kind: str, tasks: dict[str, Any], given: dict[str, Any], components: dict[str, Any]
) -> str | None:
    outer = source.get("componentInputArtifact") or source.get("componentInputParameter")
    if outer:
        return None if outer in given.get(kind, {}) else f"the input {outer}, which is not there"
    if ended := source.get("taskFinalStatus"):
        return None if ended["producerTask"] in tasks else f"the end of {ended['producerTask']}, which is not there"
    made = source.get("taskOutputArtifact") or source.get("taskOutputParameter")
    if not made:
        return None if "runtimeValue" in source else f"{sorted(source)}, which this check does not know"
    producer = tasks.get(made["producerTask"])
    if producer is None:
        return f"the task {made['producerTask']}, which is not there"
    key = made.get("outputArtifactKey") or made.get("outputParameterKey")
    outputs = components.get(producer["componentRef"]["name"], {}).get("outputDefinitions", {}).get(kind, {})
    return None if key in outputs else f"the output {key} of {made['producerTask']}, which is not there"


if __name__ == "__main__":
    for compiled in compile_all():
        print(compiled)
