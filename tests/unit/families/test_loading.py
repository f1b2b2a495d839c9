"""Bases whose weights are in one file, in whatever numbers it has."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from maquette.core.basefolder import BrokenBase
from maquette.families.base import Part, Pipeline
from maquette.families.precision import weight_dtype
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.single_file import FILE, sd15_in_one_file
from maquette.testing.tiny_family import build_tiny_base

pytestmark = pytest.mark.torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
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


@pytest.mark.parametrize(
    ("component", "prefix"),
    [("unet", "model.diffusion_model."), ("vae", "first_stage_model."), ("text_encoder", "cond_stage_model.")],
)
def test_a_file_that_lacks_a_part_is_refused_with_its_name(tmp_path: Path, component: str, prefix: str) -> None:
    base = build_tiny_base(tmp_path / "base")
    folder = sd15_in_one_file(base, tmp_path / "file")
    lacking = {name: tensor for name, tensor in load_file(folder / FILE).items() if not name.startswith(prefix)}
    save_file(lacking, folder / FILE)
    said = rf"{folder} can't be loaded: the file .* no weights of the {component}, and {folder / component} has none$"
    with pytest.raises(BrokenBase, match=said):
        Sd15Pipeline.load(folder, CPU)

    shutil.copytree(base / component, folder / component, dirs_exist_ok=True)
    Sd15Pipeline.load(folder, CPU)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_folder_that_lacks_weights_is_refused_with_their_names(tmp_path: Path, component: str) -> None:
    """The libraries would make some up."""
    base = build_tiny_base(tmp_path / "base")
    file = next((base / component).glob("*.safetensors"))
    whole = load_file(file)
    lacking = sorted(whole)[:2]
    save_file({name: whole[name] for name in whole if name not in lacking}, file, metadata={"format": "pt"})
    said = f"{base / component} lacks 2 weights of the {component}: {', '.join(lacking)}"
    with pytest.raises(BrokenBase, match=re.escape(said)):
        Sd15Pipeline.load(base, CPU)


def test_a_file_that_lacks_weights_of_a_text_encoder_is_refused_with_their_names(tmp_path: Path) -> None:
    folder = sd15_in_one_file(build_tiny_base(tmp_path / "base"), tmp_path / "file")
    lacking = {name: tensor for name, tensor in load_file(folder / FILE).items() if "layers.0.layer_norm1" not in name}
    save_file(lacking, folder / FILE)
    said = rf"{folder / FILE} lacks 2 weights of the text_encoder: .*layer_norm1\.bias, "
    with pytest.raises(BrokenBase, match=said):
        Sd15Pipeline.load(folder, CPU, waiting=True)


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("middle_block.1.norm.bias", "UNet2DConditionModel: mid_block.attentions.0.norm.bias"),
        ("first_stage_model.decoder.mid.block_1.conv1.bias", "AutoencoderKL: decoder.mid_block.resnets.0.conv1.bias"),
    ],
)
def test_a_file_that_lacks_other_weights_is_refused_with_their_names(tmp_path: Path, lacking: str, said: str) -> None:
    folder = sd15_in_one_file(build_tiny_base(tmp_path / "base"), tmp_path / "file")
    left = {name: tensor for name, tensor in load_file(folder / FILE).items() if not name.endswith(lacking)}
    save_file(left, folder / FILE)
    words = f"{folder} can't be loaded: the file beside its folders lacks 1 weights of {said}"
    with pytest.raises(BrokenBase, match=re.escape(words)):
        Sd15Pipeline.load(folder, CPU)


def test_a_folder_with_something_else_in_it_is_refused_with_what_that_has(tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path / "base")
    other = next((base / "vae").glob("*.safetensors"))
    shutil.copy(other, base / "unet")
    beside = rf"it holds {len(load_file(other))} others: decoder\.conv_in\.bias"
    said = rf"{base / 'unet'} lacks \d+ weights of the unet: conv_in\.bias, .*; {beside}"
    with pytest.raises(BrokenBase, match=said):
        Sd15Pipeline.load(base, CPU)


def test_a_tokenizer_without_words_is_refused(tmp_path: Path) -> None:
    """The library would load it, and read every word as the same."""
    base = build_tiny_base(tmp_path / "base")
    words, folder = base / "tokenizer" / "tokenizer.json", base / "tokenizer"
    vocabulary = json.loads(words.read_text())["model"]
    words.unlink()
    with pytest.raises(BrokenBase, match=f"{folder} lacks tokenizer.json, or vocab.json and merges.txt$"):
        Sd15Pipeline.load(base, CPU)

    (folder / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    Sd15Pipeline.load(base, CPU)


@pytest.mark.parametrize(
    ("component", "name", "kind"),
    [
        ("unet", "conv_out.weight", "UNet2DConditionModel"),
        ("vae", "decoder.conv_out.weight", "AutoencoderKL"),
        ("text_encoder", "encoder.layers.0.layer_norm2.weight", "CLIPTextModel"),
    ],
)
def test_weights_of_another_shape_are_refused_with_both(tmp_path: Path, component: str, name: str, kind: str) -> None:
    base = build_tiny_base(tmp_path / "base")
    file = next((base / component).glob("*.safetensors"))
    whole = load_file(file)
    expected = list(whole[name].shape)
    found = [2 * expected[0], *expected[1:]]
    save_file(whole | {name: torch.zeros(found)}, file, metadata={"format": "pt"})
    with pytest.raises(BrokenBase, match=re.escape(f"expected {name} of {kind} {expected}, found {found}")):
        Sd15Pipeline.load(base, CPU)


def test_a_file_whose_weights_are_of_another_shape_is_refused_with_both(tmp_path: Path) -> None:
    folder = sd15_in_one_file(build_tiny_base(tmp_path / "base"), tmp_path / "file")
    whole = load_file(folder / FILE)
    name = "model.diffusion_model.out.2.weight"
    expected = list(whole[name].shape)
    found = [2 * expected[0], *expected[1:]]
    save_file(whole | {name: torch.zeros(found)}, folder / FILE)
    words = f"can't be loaded: expected conv_out.weight of UNet2DConditionModel {expected}, found {found}"
    with pytest.raises(BrokenBase, match=re.escape(words)):
        Sd15Pipeline.load(folder, CPU)


class Enlarged(TorchDispatchMode):
    """Counts the numbers that are made float32 in host memory out of others, in `count`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and (made.dtype, made.device) == (torch.float32, CPU):
            self.count += made.numel()
        return made


@pytest.mark.parametrize("apart", [(), ("vae",), ("vae", "text_encoder"), ("unet",)], ids=" and ".join)
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_a_base_of_sixteen_bits_is_read_at_once_into_the_numbers_it_rests_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: torch.device, apart: tuple[str, ...]
) -> None:
    """For a GPU none but the autoencoder is ever in float32, where FLUX.1 would not fit many a host."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    base = build_tiny_base(tmp_path / "base")
    for file in base.rglob("*.safetensors"):
        rounded = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}
        save_file(rounded, file, metadata={"format": "pt"})
    folder = sd15_in_one_file(base, tmp_path / "file")
    for name in apart:
        shutil.copytree(base / name, folder / name, dirs_exist_ok=True)

    with Enlarged() as enlarged:
        read = Sd15Pipeline.load(folder, device, waiting=True)
    dtypes = {part: {weight.dtype for weight in parameters(read, part)} for part in Part}
    assert dtypes.pop(Part.AUTOENCODER) == {torch.float32}
    assert set[torch.dtype]().union(*dtypes.values()) == {weight_dtype(device)}
    if device == CUDA:
        assert enlarged.count <= sum(weight.numel() for weight in parameters(read, Part.AUTOENCODER))
    exact = weights(Sd15Pipeline.load(base, device, waiting=True))
    assert all(torch.equal(tensor, exact[name]) for name, tensor in weights(read).items())


def parameters(pipeline: Pipeline, part: Part) -> list[torch.nn.Parameter]:
    return [weight for module in pipeline.modules[part] for weight in module.parameters()]
