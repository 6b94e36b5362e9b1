"""The next windows of a repository, one cycle after another: one window is what a schedule runs."""

from kfp import dsl

from components import repository as on_repository
from pipelines.cycle import VOLUME, add_next_cycle, leaving_a_report, light


@dsl.pipeline(
    name="serm-backfill",
    description="SERM's next cycles from a git repository, in order: window, drift, cycle, tag, state.",
    pipeline_config=VOLUME,
)
def backfill(repository: str, windows: int = 1, force: bool = False, branch: str = "", directory: str = ""):
    """Run the next cycles of a repository, each on the next window that its log covers, and leave a report.

    Args:
        repository: git URL of the workspace, or a path that is mounted in each step.
        windows: how many windows to run; those that the log does not cover yet are left.
        force: run each cycle though nothing drifted.
        branch: of a git URL; empty: the repository's default branch. params.yaml says the same as `publish.branch`.
        directory: of a git URL, the workspace within its repository; empty: its root. Also `publish.directory`.
    """
    where = {"repository": repository, "branch": branch, "directory": directory}
    # One at a time: a cycle reads the state that the one before it left.
    with leaving_a_report(**where):
        counted = light(on_repository.numbers(windows=windows), "1Gi")
        with dsl.ParallelFor(counted.output, parallelism=1, name="windows"):
            # KFP's compiler leaves out that a loop in an exit handler waits for its items, which kfp.local goes by.
            add_next_cycle(where, force, early=False).after(counted)
