import numpy as np
import pytest
import torch
from PIL import Image

from maquette.trainer.data import Shuffle, to_pixels

pytestmark = pytest.mark.torch


def test_pixels_span_minus_one_to_one() -> None:
    pixels = to_pixels(Image.new("RGB", (3, 2), (0, 51, 255)))
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[:, 0, 0], [-1, -0.6, 1], atol=1e-6)


def test_a_shuffle_takes_every_row_once_a_round() -> None:
    shuffle = Shuffle(5, torch.Generator().manual_seed(1))
    rounds = [shuffle.take(5) for _ in range(3)]
    assert all(sorted(rows) == list(range(5)) for rows in rounds)
    assert len({tuple(rows) for rows in rounds}) > 1


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    shuffle = Shuffle(1, torch.Generator().manual_seed(1))
    assert shuffle.take(4) == [0, 0, 0, 0]


def test_batches_cross_from_one_round_to_the_next() -> None:
    shuffle = Shuffle(3, torch.Generator().manual_seed(1))
    rows = [row for _ in range(3) for row in shuffle.take(2)]
    assert sorted(rows[:3]) == sorted(rows[3:]) == [0, 1, 2]
