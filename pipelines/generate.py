"""Write each step's KFP component and dvc.yaml from the table of steps: ``python -m pipelines.generate``."""

import shutil
from pathlib import Path

from serm.layout import READ
from serm.steps import STAGES, TABLE, Step

ROOT = Path(__file__).parents[1]
DVC_YAML = Path("serm/workspace/template/dvc.yaml")

_COMPONENT = '''"""{help}"""

# Written by `make compile` from serm/steps.py.

from kfp import dsl

from components import images


@dsl.component(base_image=images.{image}, install_kfp_package=False)
def {name}(
    {parameters},
){returns}:
    """{help}"""
    from pathlib import Path

    {imports}

    {call}
    # kfp.local takes a step from its cache only if each of its outputs is there.
    Path(figures.path).touch(){labelled}{returned}
'''

_OVER_PATHS = """figures.metadata.update(
        {name}(
            {paths},
            parse(settings),{kept}
        )
    )"""

_OVER_OUTPUTS = """outputs = {{
        {outputs},
    }}
    figures.metadata.update({name}(repository, outputs, parse(settings), run))"""

_LABELLED = """
    gold.log_confusion_matrix(*confusion(Path({output}.path)))
    Path(gold.path).touch()"""

_DVC = """\
# One cycle's reproducible steps. `serm publish` then commits and tags them, and `serm deploy` starts the canary:
# those two change the world outside (git's history, a cluster), so they are commands and not stages.
# Written by `make compile` from serm/steps.py.
stages:
  # The state as it was when the cycle began: `serm advance` moves state/ on, and what was read stays here.
  begin:
    cmd: serm begin
    params: [cycle]
    outs:
{begun}{stages}artifacts:
  # Its versions are git tags, relevance@v3.0.0 of cycle 3; give it another name before the first cycle, if you like.
  relevance:
    path: cycle/train/model
    type: model
    desc: The challenger of a cycle, registered where it passed the gate.
# What `dvc metrics` and `dvc plots` read, show as well as diff.
metrics:
  - cycle/evaluate/metrics.json
  - cycle/train/tracking/metrics.json
plots:
  - cycle/evaluate/slices.json:
      template: bar_horizontal
      title: NDCG of the challenger on what is served, rolling test set
      x: challenger
      y: slice
  - cycle/train/tracking/plots/metrics:
      x: step
"""

#: Persistent, so that DVC's run cache, which knows a run by its settings, never brings back an earlier state.
_BEGUN = """\
      - {path}:
          persist: true
"""

_STAGE = """\
  {name}:
    cmd: serm {name}
    params: [{params}]
    deps: [{deps}]
    outs: [{out}]
"""


def component(step: Step) -> str:
    """Return the source of a step's KFP component."""
    reads = [f"{one.name}: dsl.Input[dsl.{one.kind}]" for one in step.reads]
    module, function = step.function.split(":")
    if step.writes:
        given = [*reads, "settings: str", *(["force: bool"] if step.decides else [])]
        given += ["kept: str"] if step.resumes else []
        made = [f"{step.writes.name}: dsl.Output[dsl.{step.writes.kind}]"]
        paths = [f"Path({one.name}.path)" for one in (*step.reads, step.writes)]
        kept = "\n            Path(kept) if kept else None," if step.resumes else ""
        call = _OVER_PATHS.format(name=function, paths=",\n            ".join(paths), kept=kept)
    else:
        given, made = ["repository: str", *reads, "settings: str", "run: str"], []
        outputs = [f'"{one.path.name}": Path({one.name}.path)' for one in step.reads]
        call = _OVER_OUTPUTS.format(name=function, outputs=",\n        ".join(outputs))
    imports = [f"from {module} import {function}", "from serm.settings import parse"]
    labelled = ""
    if step.labels and step.writes:
        made.append("gold: dsl.Output[dsl.ClassificationMetrics]")
        imports.append("from serm.kubeflow.labels import confusion")
        labelled = _LABELLED.format(output=step.writes.name)
    decided = '\n    return "evolve" if force else figures.metadata["decision"]'
    return _COMPONENT.format(
        name=step.name,
        help=step.help,
        image=step.image.upper(),
        parameters=",\n    ".join([*given, *made, "figures: dsl.Output[dsl.Metrics]"]),
        imports="\n    ".join(sorted(imports)),
        call=call,
        labelled=labelled,
        returns=" -> str" if step.decides else "",
        returned=decided if step.decides else "",
    )


def dvc_yaml() -> str:
    """Return the text of a workspace's dvc.yaml."""
    stages = [
        _STAGE.format(
            name=step.name,
            params=", ".join(step.params),
            deps=", ".join(one.path.as_posix() for one in step.reads),
            out=step.writes.path.as_posix(),
        )
        for step in STAGES
    ]
    begun = [_BEGUN.format(path=path.as_posix()) for path in READ]
    return _DVC.format(begun="".join(begun), stages="".join(stages))


def generate(root: Path = ROOT) -> list[Path]:
    """Write the files of all steps under ``root``, remove the components of no step, and return what was written."""
    written = {root / DVC_YAML: dvc_yaml()}
    for step in TABLE:
        folder = root / "components" / step.name
        written[folder / "__init__.py"] = f'"""The {step.name} component."""\n'
        written[folder / "component.py"] = component(step)
    for path in (root / "components").glob("*/component.py"):
        if path not in written:
            shutil.rmtree(path.parent)
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(written)


if __name__ == "__main__":
    for generated in generate():
        print(generated)
