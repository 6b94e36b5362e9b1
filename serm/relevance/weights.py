"""The weights of a module: saved as the same bytes each time, mapped from disk, and numbers all of them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from serm.errors import UserError


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the module's state, sorted by name, so that the same state is saved as the same bytes."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(module.state_dict().items())}


def assign(module: nn.Module, file: Path) -> None:
    """Make a safetensors file, mapped from disk, the module's state.

    Raises:
        UserError: it is no safetensors file, another module's, or holds NaN.
    """
    try:
        state = load_file(file)
        module.load_state_dict(state, assign=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: not this model's weights ({reason}); restore it with dvc checkout.") from error
    finite(state, file)


def finite(state: dict[str, torch.Tensor], where: Path) -> None:
    """Check that no weight is NaN or infinite; a sum in float64 finds one without a copy.

    Raises:
        UserError: one is.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise UserError(f"{where}: {name} holds weights that are not finite (NaN or infinite); train it again.")
