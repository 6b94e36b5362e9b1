"""One look at a rollout: what users did decides the traffic. Scheduled, it is what ramps a challenger up."""

from kfp import dsl

from components import repository as on_repository
from pipelines.cycle import VOLUME, leaving_a_report, light


@dsl.pipeline(
    name="serm-rollout",
    description="Looks at what users did, sets the challenger's share, and keeps the record in git.",
    pipeline_config=VOLUME,
)
def rollout(repository: str, log: str):
    """Tick the rollout that runs, as `serm rollout tick` does; where none runs, do nothing.

    Args:
        repository: git URL of the workspace, or a path that is mounted in each step.
        log: URI of the joined log of impressions, with their variants.
    """
    with leaving_a_report(repository):
        read = dsl.importer(artifact_uri=log, artifact_class=dsl.Dataset, reimport=True).set_display_name("log").output
        light(on_repository.ramp(repository=repository, volume=dsl.WORKSPACE_PATH_PLACEHOLDER, log=read), "3Gi")
