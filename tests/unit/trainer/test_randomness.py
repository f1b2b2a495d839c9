"""Every seed that a task may pin seeds every source."""

import pytest
import torch

from maquette.core.specs import INT64_MAX, MAX_DRAWN_SEED
from maquette.trainer.randomness import Randomness, derive, generator

SEEDS = (1, MAX_DRAWN_SEED, MAX_DRAWN_SEED + 1, INT64_MAX)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_of_64_bits_seeds_every_source(seed: int) -> None:
    assert torch.Generator().manual_seed(seed).initial_seed() == seed
    assert generator(seed, "noise").initial_seed() == derive(seed, "noise") <= INT64_MAX
    randomness = Randomness(seed, 3, 2, torch.device("cpu"))
    again = Randomness(seed, 3, 2, torch.device("cpu"))
    drawn, repeated = (torch.rand(4, generator=source.noise) for source in (randomness, again))
    assert torch.equal(drawn, repeated)


def test_seeds_that_differ_above_32_bits_are_different_seeds() -> None:
    assert len({derive(seed, "noise") for seed in SEEDS}) == len(SEEDS)
