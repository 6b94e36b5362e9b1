"""The first three steps over the window so far, daily and cheap; where it drifted, the cycle begins now."""

from kfp import dsl

from pipelines.cycle import VOLUME, add_next_cycle, leaving_a_report


@dsl.pipeline(
    name="serm-watch",
    description="Looks at the stream since the last cycle, and starts a cycle where it drifted.",
    pipeline_config=VOLUME,
)
def watch(repository: str):
    """Look for drift in what came since the last cycle; a cycle of that window begins where there is some.

    Where nothing drifted, nothing is recorded, and the window goes on. Leaves a report.

    Args:
        repository: git URL of the workspace, or a path that is mounted in each step.
    """
    with leaving_a_report(repository):
        add_next_cycle(repository, False, early=True)
