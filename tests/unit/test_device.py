"""Where models score is the GPU that CUDA offers, and else the CPU, in bf16 only where that is faster."""

from __future__ import annotations

import pytest
import torch

from serm.relevance import device


@pytest.mark.parametrize(("offered", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_where_cuda_offers_one(offered: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: offered)
    assert device.device() == torch.device(chosen)


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_is_for_gpus_and_for_cpus_with_instructions_for_it(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert device.has_bf16(torch.device("cuda"))
    assert device.has_bf16(device.CPU) is supported
    matrix = torch.ones(2, 2)
    with device.fast_matmul():
        assert (matrix @ matrix).dtype == (torch.bfloat16 if supported else torch.float32)
    with device.fast_matmul(enabled=False):
        assert (matrix @ matrix).dtype == torch.float32
