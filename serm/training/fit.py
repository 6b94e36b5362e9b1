"""The training loop: reproducible on the CPU, bit for bit, on the same machine with the same number of threads."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from serm.settings import TrainingSettings
from serm.training.batches import batches
from serm.training.checkpoint import Checkpoints
from serm.training.processes import processes
from serm.training.run import Run
from serm.training.task import Task

REPORT_STEPS = 50
"""Steps whose mean loss makes one number of the curve."""
FIRST_STEPS = 10
"""Steps after which it is said how long the others will take."""


@contextmanager
def reproducible(settings: TrainingSettings) -> Iterator[None]:
    """Fix the seed, the threads and the algorithms of torch inside the block."""
    deterministic, cuda = torch.utils.deterministic, torch.backends.cuda
    threads, algorithms = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    reduced = cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        # Some of CUDA's kernels have no deterministic form: there it is a wish, on the CPU it holds.
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        # With it torch also writes NaN into each new tensor, to show who reads one unwritten: a tenth of a step.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # The plain kernel of attention, a CPU's too whatever the name says, keeps bf16 as the fused ones do.
        cuda.allow_fp16_bf16_reduction_math_sdp(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(algorithms)
            deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
            cuda.allow_fp16_bf16_reduction_math_sdp(reduced)


@dataclass(frozen=True)
class Fitted:
    """What a training run did."""

    curve: list[float]
    """The mean loss of each ``REPORT_STEPS`` steps."""
    planned: int
    """Steps of the whole run, over which the learning rate rises and falls."""
    steps: int
    """Steps taken: all, but where ``patience`` ends it."""
    kept: int
    """The step after which the weights were kept: the last one, or with ``patience`` the best one."""
    watched: list[tuple[int, float]]
    """With ``patience``: step, and the loss on the held-out pairs after it."""
    parts: int
    """Parts that a batch went through in; more than one where memory ran out."""
    pairs_per_second: float
    """Of the steps that this process took itself."""


def fine_tune(
    task: Task,
    settings: TrainingSettings,
    checkpoints: Checkpoints | None = None,
    name: str = "model",
    steps: int | None = None,
) -> Fitted:
    """Train a model of either family.

    AdamW, linear warm-up, linear decay to zero, gradients clipped to norm 1; at the end the weights go back towards the
    first ones by ``champion_share``. Under ``torchrun`` the parts of each batch are shared out among the processes and
    their gradients summed, so the batch stays the same.

    Args:
        task: the model, whose weights are changed in place, and what it learns.
        settings: the section ``training``; with ``patience``, training stops when the task's held-out loss no longer
            falls.
        checkpoints: where the run's state is kept; it goes on from there if there is one. The last state stays there,
            so that a run that ended is not taken again.
        name: of the model, for the progress shown.
        steps: how many to take, in the place of the settings' ``epochs``.
    """
    order = list(batches(task.lengths, task.groups, task.batch_pairs, settings, steps))
    run = Run(task, settings, len(order))
    if checkpoints:
        run.restore(checkpoints)
    begun, start = run.step, time.perf_counter()
    for step in _progress(name, run.step, len(order), run.losses):
        if run.is_over:
            break
        run.update(order[step])
        if settings.patience and (run.step % settings.watch_steps == 0 or run.step == len(order)):
            run.watch()
        if checkpoints and run.step % checkpoints.every == 0 and run.step < len(order):
            run.save(checkpoints)
    if checkpoints and run.step > begun:
        run.save(checkpoints)
    run.finish()
    speed = sum(map(len, order[begun : run.step])) / (time.perf_counter() - start)
    curve = [round(float(np.mean(part)), 5) for part in _bins(run.losses)]
    return Fitted(curve, len(order), run.step, run.kept, run.watched, run.parts, speed)


def _progress(name: str, start: int, end: int, losses: list[float]) -> Iterator[int]:
    """Yield the steps behind a progress bar, or with a plain line now and then when there is no terminal."""
    console = Console(stderr=True, quiet=not processes().is_main_process)
    if console.is_terminal:
        yield from track(range(start, end), f"train: {name}", console=console, transient=True)
        return
    begun = time.perf_counter()
    for step in range(start, end):
        yield step
        is_first = step + 1 - start == FIRST_STEPS
        if is_first or (step + 1) % REPORT_STEPS == 0 or step + 1 == end:
            recent = np.mean(losses[-REPORT_STEPS:])
            seconds = (time.perf_counter() - begun) / (step + 1 - start) * (end - step - 1)
            left = f", about {max(1, round(seconds / 60))} min left" if seconds > 30 else ""
            console.print(f"train: {name}, step {step + 1} of {end}, loss {recent:.3f}{left}", highlight=False)


def _bins(losses: list[float]) -> list[NDArray[np.float64]]:
    return np.array_split(np.array(losses), math.ceil(len(losses) / REPORT_STEPS))
