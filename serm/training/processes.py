"""Where this process stands among those that train together, and on which device."""

from __future__ import annotations

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """Return accelerate's state; under ``torchrun`` on CPUs too, where it sees single processes unless it is told."""
    return PartialState(cpu=not torch.accelerator.is_available())
