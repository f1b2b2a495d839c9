"""What needs a GPU: `make test-gpu`, on a machine that has one. It is in no other target, and fails without one."""

import pytest
import torch

from maquette.families.environment import prepare_environment
from maquette.families.precision import use_device

prepare_environment()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The last one, so that what is wrong on any but the first is seen where there are several."""
    assert torch.cuda.is_available(), "torch sees no CUDA device"
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    use_device(device)
    return device


def pytest_configure(config: pytest.Config) -> None:
    # Where a kernel can't work deterministically, torch says so, and no other is to be had.
    config.addinivalue_line("filterwarnings", "ignore:.*deterministic:UserWarning")
