"""The picture that a request starts from; what files there are is tried out in `tests/unit/core/test_decoding.py`."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from maquette.families.pixels import read_original, to_pixels

pytestmark = pytest.mark.torch


def test_pixels_span_minus_one_to_one() -> None:
    pixels = to_pixels(Image.new("RGB", (3, 2), (0, 51, 255)))
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[:, 0, 0], [-1, -0.6, 1], atol=1e-6)


def test_sixteen_bits_of_grey_are_as_bright_as_eight() -> None:
    found: list[torch.Tensor] = []
    for mode, value in (("L", 100), ("I;16", 100 * 256)):
        file = io.BytesIO()
        Image.new(mode, (8, 8), value).save(file, format="PNG")
        found.append(read_original(file.getvalue(), 8, 8))
    assert found[0].shape == (1, 3, 8, 8)
    assert torch.equal(*found)
