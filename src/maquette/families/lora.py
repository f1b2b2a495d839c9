"""Finished LoRAs beside the layers of a base, to draw with: nothing is merged, and no layer is replaced."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn import Conv2d, Linear
from torch.nn.functional import conv2d, linear
from torch.utils.hooks import RemovableHandle

Layer: TypeAlias = Linear | Conv2d


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """What a LoRA adds to one layer: `up(down(x)) * alpha / divisor`.

    Attributes:
        down: (rank, in), or (rank, in, height, width) as the convolution's kernel.
        up: (out, rank), or (out, rank, 1, 1).
        alpha, divisor: the file's own scale; the divisor is the rank or, for rank-stabilised LoRAs, its root.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    divisor: float


@dataclass(frozen=True, eq=False)
class LoadedLora:
    """A LoRA file in host memory, checked against one base; `layers` are named as `named_layers` names them."""

    path: str
    layers: Mapping[str, LoraLayer]

    @property
    def size(self) -> int:
        """Bytes of its matrices."""
        return sum(matrix.nbytes for layer in self.layers.values() for matrix in (layer.down, layer.up))


@dataclass(frozen=True, eq=False)
class _Term:
    """A LoRA's part of one layer, where the layer is."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


class ActiveLoras:
    """The LoRAs that act on a base's layers, through a forward hook on each layer that one of them touches.

    Each adds to the layer's output in PEFT's order of operations, so that a LoRA draws, bit for bit, what it drew when
    PEFT trained it.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._layers = layers
        self._hooks: list[RemovableHandle] = []

    def set(self, loras: Sequence[tuple[LoadedLora, float]]) -> None:
        """Let exactly these act, each with its strength (1.0 is as trained); naming one twice adds its strengths.

        If it raises (a device's memory may not suffice), none acts.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        strengths: dict[LoadedLora, float] = {}
        for lora, strength in loras:
            strengths[lora] = strengths.get(lora, 0.0) + strength
        terms: dict[str, list[_Term]] = {}
        for lora, strength in strengths.items():
            if strength != 0:
                for name, layer in lora.layers.items():
                    terms.setdefault(name, []).append(_term(layer, strength, self._layers[name]))
        self._hooks = [self._layers[name].register_forward_hook(_adding(found)) for name, found in terms.items()]


def named_layers(model: torch.nn.Module) -> dict[str, Layer]:
    """The layers of a model that a LoRA may touch, by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Layer)}


def shapes(layer: Layer, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the two matrices of a LoRA of this rank measure, down and up."""
    if isinstance(layer, Linear):
        return (rank, layer.in_features), (layer.out_features, rank)
    return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)


def divisor(rank: int, *, rank_stabilised: bool) -> float:
    """What alpha is divided by (rank-stabilised: Kalajdzievski 2023, arXiv:2312.03732)."""
    return math.sqrt(rank) if rank_stabilised else rank


def _term(lora: LoraLayer, strength: float, layer: Layer) -> _Term:
    place = layer.weight.device, layer.weight.dtype
    return _Term(lora.down.to(*place), lora.up.to(*place), strength * lora.alpha / lora.divisor)


def _adding(terms: Sequence[_Term]) -> Callable[[Any, Any, Any], torch.Tensor]:
    def add(layer: Layer, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for term in terms:
            output = output + _through(layer, term, args[0]) * term.scale
        return output

    return add


def _through(layer: Layer, term: _Term, x: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, Linear):
        return linear(linear(x, term.down), term.up)
    return conv2d(conv2d(x, term.down, stride=layer.stride, padding=layer.padding), term.up)
