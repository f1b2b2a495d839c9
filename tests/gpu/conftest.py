"""What needs a GPU: `make test-gpu`, on a machine that has one. It is in no other target, and fails without one."""

import pytest
import torch

from maquette.families.environment import prepare_environment
from maquette.families.precision import work_deterministically

prepare_environment()


@pytest.fixture(scope="session")
def device() -> torch.device:
    assert torch.cuda.is_available(), "torch sees no CUDA device"
    device = torch.device("cuda", 0)
    work_deterministically(device)
    return device


def pytest_configure(config: pytest.Config) -> None:
    # Where a kernel adds in an order of its own, torch says so, and no other is to be had.
    config.addinivalue_line("filterwarnings", "ignore:.*deterministic:UserWarning")
