"""What each family of models gives the training loop, which is one for all."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from serm.training.batches import Rows


class Task(Protocol):
    """A model to train on ``n`` rows, a judged pair each, and held-out pairs to look at."""

    @property
    def module(self) -> nn.Module:
        """Its parameters that require gradients are trained, in place."""
        ...

    lengths: Rows
    """[n] tokens of each row: batches hold rows of about one length."""
    groups: Rows
    """[n] numbers from 0: rows of one group go through the model together, for their loss needs them so."""
    batch_pairs: int
    """Rows of one step."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return AdamW's groups: parameters, learning rate and weight decay."""
        ...

    def loss(self, rows: Rows, batch: Rows) -> torch.Tensor:
        """Return what ``rows``, whole groups of ``batch``, add to the batch's loss: a scalar on the module's device.

        The module comes in either mode; one that drops out sets its own.
        """
        ...

    def held_out_loss(self) -> float:
        """Return the mean negative log-likelihood of the held-out pairs' grades; the module is in eval mode."""
        ...

    def calibrate(self) -> float:
        """Fit the model's temperature to the held-out pairs and return it; 1 where there are none."""
        ...
