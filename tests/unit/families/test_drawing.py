"""The picture that a request starts from; what files there are is tried out in `tests/unit/core/test_decoding.py`."""

import io

import pytest
import torch
from PIL import Image

from maquette.families.drawing import read_original

pytestmark = pytest.mark.torch


def test_sixteen_bits_of_grey_are_as_bright_as_eight() -> None:
    found: list[torch.Tensor] = []
    for mode, value in (("L", 100), ("I;16", 100 * 256)):
        file = io.BytesIO()
        Image.new(mode, (8, 8), value).save(file, format="PNG")
        found.append(read_original(file.getvalue(), 8, 8))
    assert found[0].shape == (1, 3, 8, 8)
    assert torch.equal(*found)
