"""The components that stand around a cycle: they work on a clone of the repository, on the run's volume."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def checkout(
    repository: str,
    branch: str,
    directory: str,
    volume: str,
    early: bool,
    settings: dsl.OutputPath(str),
    log: dsl.Output[dsl.Dataset],
    documents: dsl.Output[dsl.Dataset],
    knowledge: dsl.Output[dsl.Dataset],
    tests: dsl.Output[dsl.Dataset],
    champion: dsl.Output[dsl.Model],
    judgments: dsl.Output[dsl.Dataset],
    reference: dsl.Output[dsl.Dataset],
    profiles: dsl.Output[dsl.Dataset],
    windows: dsl.Output[dsl.Dataset],
) -> str:
    """Clone the repository, set params.yaml to the next window, and hand out what the cycle reads."""
    from pathlib import Path

    from serm.kubeflow.repository import checkout

    given = (log, documents, knowledge, tests, champion, judgments, reference, profiles, windows)
    text = checkout(repository, Path(volume), {one.name: Path(one.path) for one in given}, early, branch, directory)
    Path(settings).parent.mkdir(parents=True, exist_ok=True)
    Path(settings).write_text(text or "none", encoding="utf-8")
    return "cycle" if text else "wait"


@dsl.component(base_image=images.DATA, install_kfp_package=False)
def numbers(windows: int) -> list:
    """Count the windows."""
    return list(range(1, windows + 1))


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def advance(repository: str, branch: str, directory: str, volume: str, settings: str, figures: dsl.Output[dsl.Metrics]):
    """Move the state past the published cycle, and push it."""
    from pathlib import Path

    from serm.kubeflow.repository import go_past

    figures.metadata.update(go_past(repository, Path(volume), settings, branch, directory))
    Path(figures.path).touch()


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def report(
    repository: str,
    volume: str,
    status: dsl.PipelineTaskFinalStatus,
    page: dsl.Output[dsl.HTML],
    branch: str = "",
    directory: str = "",
    settings: str = "",
):
    """Leave the report of the workspace, and how the run ended."""
    from pathlib import Path

    from serm.kubeflow.report import leave_report

    ended = status.state, status.error_message or ""
    leave_report(repository, Path(volume), Path(page.path), *ended, branch, directory, settings)


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def found(
    repository: str,
    volume: str,
    remote: str,
    base: str,
    locale: str,
    every: float,
    log: dsl.Input[dsl.Dataset],
    documents: dsl.Input[dsl.Dataset],
    judgments: dsl.Input[dsl.Dataset],
    figures: dsl.Output[dsl.Metrics],
):
    """Make a workspace with its first champion, and push it to an empty repository."""
    from pathlib import Path

    from serm.founding import Given
    from serm.kubeflow.repository import found

    files = Path(log.path), Path(documents.path), (Path(judgments.path),)
    given = Given(*files, locale=locale, base=base, every=every, remote=remote)
    figures.metadata.update(found(repository, Path(volume), given))
    Path(figures.path).touch()


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def ramp(
    repository: str,
    branch: str,
    directory: str,
    volume: str,
    log: dsl.Input[dsl.Dataset],
    figures: dsl.Output[dsl.Metrics],
):
    """Take a step of the rollout that runs, and push its record."""
    from pathlib import Path

    from serm.kubeflow.repository import ramp

    figures.metadata.update(ramp(repository, Path(volume), Path(log.path), branch, directory))
    Path(figures.path).touch()
