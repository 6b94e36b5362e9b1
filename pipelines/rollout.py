"""One look at a rollout: what users did decides the traffic. Scheduled, it is what ramps a challenger up."""

from kfp import dsl

from components import repository as on_repository
from pipelines.cycle import VOLUME, leaving_a_report, light


@dsl.pipeline(
    name="serm-rollout",
    description="Looks at what users did, sets the challenger's share, and keeps the record in git.",
    pipeline_config=VOLUME,
)
def rollout(repository: str, log: str, branch: str = "", directory: str = ""):
    """Tick the rollout that runs, as `serm rollout tick` does; where none runs, do nothing.

    Args:
        repository: git URL of the workspace, or a path that is mounted in each step.
        log: URI of the joined log of impressions, with their variants.
        branch: of a git URL; empty: the repository's default branch. params.yaml says the same as `publish.branch`.
        directory: of a git URL, the workspace within its repository; empty: its root. Also `publish.directory`.
    """
    where = {"repository": repository, "branch": branch, "directory": directory}
    with leaving_a_report(**where):
        read = dsl.importer(artifact_uri=log, artifact_class=dsl.Dataset, reimport=True).set_display_name("log").output
        light(on_repository.ramp(**where, volume=dsl.WORKSPACE_PATH_PLACEHOLDER, log=read), "3Gi")
