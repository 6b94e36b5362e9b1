"""The next windows of a repository, one cycle after another: one window is what a schedule runs."""

from kfp import dsl

from components import repository as on_repository
from pipelines.cycle import VOLUME, add_next_cycle, leaving_a_report, light


@dsl.pipeline(
    name="serm-backfill",
    description="SERM's next cycles from a git repository, in order: window, drift, cycle, tag, state.",
    pipeline_config=VOLUME,
)
def backfill(repository: str, windows: int = 1, force: bool = False):
    """Run the next cycles of a repository, each on the next window that its log covers, and leave a report.

    Args:
        repository: git URL of the workspace, or a path that is mounted in each step.
        windows: how many windows to run; those that the log does not cover yet are left.
        force: run each cycle though nothing drifted.
    """
    # One at a time: a cycle reads the state that the one before it left.
    with leaving_a_report(repository):
        counted = light(on_repository.numbers(windows=windows), "1Gi")
        with dsl.ParallelFor(counted.output, parallelism=1, name="windows"):
            add_next_cycle(repository, force, early=False)
