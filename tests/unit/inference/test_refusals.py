"""What each error of a request means to the server."""

import pytest
import torch

from maquette.core.drawing import Refusal
from maquette.core.weights import BrokenWeights
from maquette.families.base import UnmatchedLora
from maquette.inference.worker import REFUSALS, refusal

pytestmark = pytest.mark.torch


def test_every_refusal_but_the_unforeseen_has_an_error() -> None:
    assert {reason for _, reason in REFUSALS} == set(Refusal) - {Refusal.INTERNAL}
    assert refusal(ValueError("odd")) is refusal(OSError("odd")) is refusal(RuntimeError("odd")) is Refusal.INTERNAL


def test_the_narrower_error_counts() -> None:
    assert refusal(UnmatchedLora("no key")) is Refusal.UNMATCHED_LORA
    assert refusal(BrokenWeights("cut off")) is Refusal.BROKEN_LORA


def test_memory_that_does_not_suffice_is_told_apart() -> None:
    """A petabyte, for real: the CPU's allocator has no error of its own."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert refusal(error.value) is Refusal.OUT_OF_MEMORY
    assert refusal(torch.OutOfMemoryError("CUDA out of memory")) is Refusal.OUT_OF_MEMORY
    assert refusal(MemoryError()) is Refusal.OUT_OF_MEMORY
