"""One training run: its weights, optimizer and step, which a checkpoint holds, and what one step does to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast, reduce
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from rich.console import Console
from torch import nn

from serm.errors import UserError
from serm.settings import TrainingSettings
from serm.training.batches import Rows, parts
from serm.training.checkpoint import Checkpoints
from serm.training.processes import processes
from serm.training.task import Task


class Run:
    """The state of a run after ``step`` steps.

    The data's order, the learning rate and the random numbers of LoRA's dropout follow from the settings and the step
    alone, so the trained weights, the optimizer's moments and a few numbers are the whole state.
    """

    def __init__(self, task: Task, settings: TrainingSettings, steps: int) -> None:
        """Take what ``fine_tune`` takes, and the number of ``steps`` of the whole run."""
        self.step = 0
        self.losses: list[float] = []
        self.watched: list[tuple[int, float]] = []
        self.parts = 1
        self._task, self._settings, self._steps = task, settings, steps
        self._place = processes()
        task.module.to(self._place.device)
        self._best: dict[str, torch.Tensor] = {}
        self._optimizer = torch.optim.AdamW(task.parameter_groups(), fused=True)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._weights = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
        for parameter in self._weights.values():
            parameter.data = broadcast(parameter.data)
        self._start = {name: value.detach().clone() for name, value in self._weights.items()}

    @property
    def kept(self) -> int:
        """The step whose weights are the best so far; the last one where nothing is watched."""
        return min(self.watched, key=lambda seen: seen[1])[0] if self.watched else self.step

    @property
    def is_over(self) -> bool:
        """Whether the watched loss has not fallen for ``patience`` looks."""
        looks = [step for step, _ in self.watched if step > self.kept]
        return bool(self.watched) and len(looks) >= self._settings.patience

    def update(self, batch: Rows) -> None:
        """Take one step on ``batch``; where memory runs out, in twice as many parts, and so on from then."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._pace()
        while (loss := self._attempt(batch)) is None:
            clear_device_cache(garbage_collection=True)
        if self._place.num_processes > 1:
            loss = self._sum_over_processes(loss)
        nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        self._optimizer.step()
        self.losses.append(loss.item())
        self.step += 1

    def watch(self) -> None:
        """Look at the held-out pairs: what they lose, and whether it is the least so far."""
        self._task.module.eval()
        self.watched.append((self.step, round(self._task.held_out_loss(), 6)))
        if self.kept == self.step:
            self._best = {name: value.detach().clone() for name, value in self._weights.items()}

    def finish(self) -> None:
        """Put the kept weights into the model, moved towards those it started with, on the CPU, ready to score."""
        self._put(self._best)
        for name, value in self._weights.items():
            value.data.lerp_(self._start[name], self._settings.champion_share)
        self._task.module.to("cpu").eval()

    def save(self, checkpoints: Checkpoints) -> None:
        """Write the state down; only the first process does."""
        if not self._place.is_main_process:
            return
        tensors = {f"model.{name}": value.detach().contiguous() for name, value in self._weights.items()}
        tensors |= {f"best.{name}": value.contiguous() for name, value in self._best.items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value.contiguous() for name, value in moments.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        checkpoints.save(tensors, {"step": self.step, "parts": self.parts, "watched": self.watched})

    def restore(self, checkpoints: Checkpoints) -> None:
        """Go on from the newest state, if there is one."""
        found = checkpoints.load()
        if found is None:
            return
        tensors, numbers = found
        self._put(_under("model.", tensors))
        self._best = _under("best.", tensors)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.parts = numbers["step"], numbers["parts"]
        self.watched = [(step, loss) for step, loss in numbers["watched"]]
        self.losses.extend(tensors["losses"].tolist())
        self._say(f"train: goes on after step {self.step} of an interrupted run")

    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        for name, value in weights.items():
            self._weights[name].data.copy_(value)

    def _pace(self) -> float:
        """Return the share of the learning rate: it warms up linearly, then falls linearly to zero."""
        warm = max(1, round(self._settings.warmup_share * self._steps))
        return min((self.step + 1) / warm, (self._steps - self.step) / max(1, self._steps - warm))

    def _attempt(self, batch: Rows) -> torch.Tensor | None:
        """Return ``_gradients``, or None where memory ran out: what the attempt held is free once this returns."""
        try:
            return self._gradients(batch)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            self._split(batch, str(error))
            return None

    def _gradients(self, batch: Rows) -> torch.Tensor:
        """Set this process' share of the batch's gradients; return its share of the loss."""
        seeds = np.random.SeedSequence([self._settings.seed, self.step, self._place.process_index])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._place.device)
        for rows in parts(self._share(batch), self._task.groups, self.parts):
            loss = self._task.loss(rows, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _share(self, batch: Rows) -> Rows:
        """Return this process' groups of the batch; none where there are more processes than groups."""
        shares = parts(batch, self._task.groups, self._place.num_processes)
        return shares[self._place.process_index] if self._place.process_index < len(shares) else batch[:0]

    def _sum_over_processes(self, loss: torch.Tensor) -> torch.Tensor:
        """Give each process the sum of all processes' gradients; return the sum of their losses.

        One sum after the parts, not DistributedDataParallel's hooks: processes may have different numbers of parts, and
        one that ran out of memory must be able to start its share again.
        """
        parameters = list(self._weights.values())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = reduce(torch.cat([loss[None], *(gradient.ravel() for gradient in gradients)]), "sum")
        for parameter, gradient in zip(parameters, flat[1:].split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)
        summed: torch.Tensor = flat[0]
        return summed

    def _split(self, batch: Rows, reason: str) -> None:
        """Halve what goes through at once.

        Raises:
            UserError: a part is one group already.
        """
        if self.parts >= len(np.unique(self._task.groups[self._share(batch)])):
            raise UserError(
                "training: not even the pairs that must go through together fit into memory; lower batch_pairs or"
                f" relevance.max_tokens, or set training.gradient_checkpointing. The machine said: {reason}"
            )
        self.parts *= 2
        self._optimizer.zero_grad()
        self._say(
            f"train: out of memory; from step {self.step + 1} on a batch goes through in {self.parts} parts of about"
            f" {math.ceil(self._task.batch_pairs / self._place.num_processes / self.parts)} pairs. Their gradients"
            " add up to the whole batch's."
        )

    def _say(self, sentence: str) -> None:
        Console(stderr=True, quiet=not self._place.is_main_process).print(sentence, highlight=False, soft_wrap=True)


def _under(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
