"""A LoRA in a file of kohya's layout says to each layer what it said, also where several are one there."""

import pytest
import torch
from torch.nn import Linear

from maquette.families.lora import LoraLayer
from maquette.families.lora_file import kohya_tensors
from maquette.families.registry import load_spec

pytestmark = pytest.mark.torch

BLOCK = "transformer.single_transformer_blocks.0."
NAME = "lora_unet_single_blocks_0_linear1"
IN = 4
OUTPUTS = {"attn.to_q": 2, "attn.to_k": 2, "attn.to_v": 3, "proj_mlp": 5}


@pytest.mark.parametrize("trained", [list(OUTPUTS), ["attn.to_q", "attn.to_v"], ["attn.to_k"], ["proj_mlp"]])
def test_layers_that_are_one_there_are_told_what_each_had_and_others_nothing(trained: list[str]) -> None:
    layers = {BLOCK + part: Linear(IN, outputs) for part, outputs in OUTPUTS.items()}
    loras = {BLOCK + part: lora(OUTPUTS[part], rank) for rank, part in enumerate(trained, 1)}
    tensors = kohya_tensors(loras, layers, load_spec("flux1").keys)
    down, up = tensors[f"{NAME}.lora_down.weight"], tensors[f"{NAME}.lora_up.weight"]
    scale = tensors[f"{NAME}.alpha"] / len(down)
    for name, said in zip(layers, (up @ down * scale).split(list(OUTPUTS.values())), strict=True):
        own = loras.get(name)
        expected = own.up @ own.down * own.scale if own else torch.zeros(layers[name].out_features, IN)
        torch.testing.assert_close(said, expected)


def lora(outputs: int, rank: int) -> LoraLayer:
    """What a LoRA of a layer may say, at twice its matrices."""
    return LoraLayer(down=torch.randn(rank, IN), up=torch.randn(outputs, rank), alpha=2.0 * rank, divisor=rank)
