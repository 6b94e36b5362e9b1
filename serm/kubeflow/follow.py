"""Follow a run of Kubeflow Pipelines to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serm.errors import UserError

if TYPE_CHECKING:
    from serm.kubeflow.api import Pipelines

_ENDED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
_STATES = {*_ENDED, "PENDING", "RUNNING", "CANCELING", "PAUSED"}


@dataclass(frozen=True)
class Standing:
    """A run at one look."""

    state: str
    """As KFP calls it, in small letters: pending, running, paused, canceling; succeeded, skipped, failed, canceled."""
    tasks: dict[str, str]
    """Each task's name -> its state, in the order in which they began."""
    errors: list[str]
    """What failed, and what KFP says of it."""

    @property
    def ended(self) -> bool:
        """Whether the run goes no further."""
        return self.state.upper() in _ENDED

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.state == "succeeded"


def follow(
    api: Pipelines, run_id: str, show: Callable[[Standing], None], *, seconds: float | None = None, every: float = 10.0
) -> Standing:
    """Look at a run until it has ended; ``show`` is given each look that differs from the one before.

    Args:
        api: KFP.
        run_id: the run.
        show: is given how the run stands.
        seconds: how long to wait; None: until it ends.
        every: seconds between two looks.

    Raises:
        UserError: it has not ended in time, or KFP does not answer; the run goes on in both cases.
    """
    begun, before = time.monotonic(), None
    while True:
        standing = standing_of(api.run(run_id))
        if standing != before:
            show(standing)
            before = standing
        if standing.ended:
            return standing
        if seconds is not None and time.monotonic() - begun > seconds:
            raise UserError(
                f"The run {run_id} is {standing.state} after {seconds:g} seconds, and goes on; look again with"
                f" `serm submit --follow {run_id}`."
            )
        time.sleep(every)


def standing_of(run: Any) -> Standing:
    """Return how a run (V2beta1Run) stands."""
    tasks = run.run_details.task_details if run.run_details and run.run_details.task_details else []
    begun = sorted(tasks, key=lambda task: (task.start_time is None, str(task.start_time)))
    shown = {task.display_name or task.task_id or "?": _state(task.state) for task in begun}
    return Standing(_state(run.state), shown, list(dict.fromkeys(_errors(run, begun))))


def _errors(run: Any, tasks: list[Any]) -> Iterator[str]:
    for task in tasks:
        if _state(task.state) == "failed":
            said = task.error.message if task.error and task.error.message else "it did not say why; see its pod's log"
            yield f"{task.display_name}: {' '.join(said.split())[:500]}"
    if run.error and run.error.message:
        yield " ".join(run.error.message.split())[:500]


def _state(state: str | None) -> str:
    return state.lower() if state in _STATES else "pending"
