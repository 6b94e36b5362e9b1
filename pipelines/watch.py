"""The first three steps over the window so far, daily and cheap; where it drifted, the cycle begins now."""

from kfp import dsl

from pipelines.cycle import VOLUME, add_next_cycle, leaving_a_report


@dsl.pipeline(
    name="serm-watch",
    description="Looks at the stream since the last cycle, and starts a cycle where it drifted.",
    pipeline_config=VOLUME,
)
def watch(repository: str, branch: str = "", directory: str = ""):
    """Look for drift in what came since the last cycle; a cycle of that window begins where there is some.

    Where nothing drifted, nothing is recorded, and the window goes on. Leaves a report.

    Args:
        repository: git URL of the workspace, or a path that is mounted in each step.
        branch: of a git URL; empty: the repository's default branch. params.yaml says the same as `publish.branch`.
        directory: of a git URL, the workspace within its repository; empty: its root. Also `publish.directory`.
    """
    where = {"repository": repository, "branch": branch, "directory": directory}
    with leaving_a_report(**where):
        add_next_cycle(where, False, early=True)
