"""Where models score: on the GPU where CUDA has one (CUDA_VISIBLE_DEVICES chooses), else on the CPU."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")


def device() -> torch.device:
    """Return where models that score are put; what they return is on the CPU."""
    return torch.device("cuda") if torch.cuda.is_available() else CPU


def fast_matmul(enabled: bool = True, device: torch.device = CPU) -> torch.autocast:
    """Return bf16 autocast, which does nothing where the CPU has no bf16 instructions (it would be slower)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether matrices are multiplied in bf16 there."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
