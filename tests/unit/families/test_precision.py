"""A base works in the numbers that its device is fast in."""

import pytest
import torch

from maquette.families.precision import NOWHERE, mixed_precision, use_device, weight_dtype

pytestmark = pytest.mark.torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
    ids=["V100", "T4", "A100", "H100"],
)
def test_a_gpu_is_asked_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    """The one that is meant, where there are several."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", {CUDA: capability}.__getitem__)
    assert weight_dtype(CUDA) is dtype


def test_what_works_nowhere_is_in_half_the_memory() -> None:
    assert weight_dtype(NOWHERE) is torch.bfloat16


def test_a_cpu_works_in_float32() -> None:
    assert weight_dtype(CPU) is torch.float32
    with mixed_precision(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_a_device_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made_current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    for device in (torch.device("cuda"), CUDA, CPU):
        use_device(device)
    assert made_current == [CUDA]
