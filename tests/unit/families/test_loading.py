"""Bases whose weights are in one file, in whatever numbers it has."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maquette.families.base import Part, Pipeline
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.single_file import FILE, sd15_in_one_file
from maquette.testing.tiny_family import build_tiny_base

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
EIGHT_BITS = torch.float8_e4m3fn


def weights(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    return {
        f"{part} {number} {name}": tensor
        for part in Part
        for number, module in enumerate(pipeline.modules[part])
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("halves", [1, 2], ids=["all of it", "every other weight"])
def test_a_file_of_eight_bit_numbers_is_read_as_what_they_say(tmp_path: Path, halves: int) -> None:
    """ComfyUI's checkpoints have them; some keep a part of their weights in others."""
    base = build_tiny_base(tmp_path / "base")
    folder = sd15_in_one_file(base, tmp_path / "file")
    whole = load_file(folder / FILE)
    rounded = {name: tensor.to(EIGHT_BITS) for name, tensor in list(whole.items())[::halves]}
    save_file(whole | rounded, folder / FILE)

    exact, read = (weights(Sd15Pipeline.load(path, CPU)) for path in (base, folder))
    assert {tensor.dtype for tensor in read.values() if tensor.is_floating_point()} == {torch.float32}
    changed = [name for name, tensor in exact.items() if not torch.equal(read[name], tensor)]
    assert changed
    assert all(torch.equal(read[name], exact[name].to(EIGHT_BITS).to(torch.float32)) for name in changed)
