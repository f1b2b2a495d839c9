"""A LoRA that trains, beside layers as they are: PEFT's is the measure."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import Conv2d, Linear, Sequential, SiLU
from torch.testing import assert_close

from maquette.families.lora import ActiveLoras, LoadedLora, TrainedLayer, named_layers, untrained

pytestmark = pytest.mark.torch

RANK, ALPHA = 4, 6
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def model() -> Sequential:
    """A convolution that halves the sides, and a layer along the last of them; frozen, and always the same."""
    torch.manual_seed(2)
    return Sequential(Conv2d(3, 5, 3, stride=2, padding=1), SiLU(), Linear(4, 7)).requires_grad_(False)


def trained(layers: Sequential) -> dict[str, TrainedLayer]:
    """A LoRA whose matrices are all random, which acts on the model."""
    random = torch.Generator().manual_seed(3)
    found = {name: untrained(layer, RANK, ALPHA) for name, layer in named_layers(layers).items()}
    with torch.no_grad():
        for lora in found.values():
            lora.up.normal_(generator=random)
    ActiveLoras(named_layers(layers)).train(found)
    return found


def test_it_says_what_peft_says_and_has_its_gradients() -> None:
    ours, theirs = model(), model()
    loras = trained(ours)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(loras)), theirs, "theirs")
    matrices = dict(theirs.named_parameters())
    pairs = [
        (matrix, matrices[f"{name}.lora_{part}.theirs.weight"])
        for name, lora in loras.items()
        for part, matrix in (("A", lora.down), ("B", lora.up))
    ]
    with torch.no_grad():
        for matrix, their in pairs:
            their.copy_(matrix)
    x, their_x = X.clone().requires_grad_(), X.clone().requires_grad_()
    said, expected = ours(x), theirs(their_x)
    assert_close(said, expected)
    said.square().mean().backward()
    expected.square().mean().backward()
    assert_close(x.grad, their_x.grad)
    for matrix, their in pairs:
        assert matrix.grad is not None
        assert matrix.grad.abs().max() > 0
        assert_close(matrix.grad, their.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_it_trains_it_says_to_the_bit_what_its_file_will(dtype: torch.dtype) -> None:
    """Also where the layers' numbers are rounder than its own."""
    layers, loras = model().to(dtype), trained(model())
    active = ActiveLoras(named_layers(layers))
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        plain = layers(X)
        active.train(loras)
        said = layers(X)
        active.set([(LoadedLora("lora.safetensors", loras), 1.0)])
        read = layers(X)
    assert said.dtype == dtype
    assert torch.equal(read, said)
    assert not torch.equal(read, plain)


def test_an_untrained_one_changes_nothing_and_learns() -> None:
    plain, layers = model(), model()
    active = ActiveLoras(named_layers(layers))
    loras = {name: untrained(layer, RANK, ALPHA) for name, layer in named_layers(layers).items()}
    active.train(loras)
    said = layers(X)
    assert torch.equal(said, plain(X))
    said.square().mean().backward()
    # With nothing in the up matrix the other one is not told anything yet.
    assert all(lora.up.grad is not None and lora.up.grad.abs().max() > 0 for lora in loras.values())
    assert all(lora.down.grad is not None and lora.down.grad.abs().max() == 0 for lora in loras.values())


def test_what_trains_is_in_float32_whatever_the_layer_is() -> None:
    lora = untrained(Linear(300, 200, dtype=torch.bfloat16), 8, 8)
    assert (lora.down.dtype, lora.up.dtype) == (torch.float32, torch.float32)
    assert (lora.down.shape, lora.up.shape) == ((8, 300), (200, 8))
    assert lora.down.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert lora.up.abs().max() == 0


def test_it_acts_until_another_is_to() -> None:
    layers = model()
    active = ActiveLoras(named_layers(layers))
    active.train({name: untrained(layer, RANK, ALPHA) for name, layer in named_layers(layers).items()})
    assert any(layer._forward_hooks for layer in layers)
    active.set([])
    assert not any(layer._forward_hooks for layer in layers)
