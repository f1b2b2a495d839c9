"""LoRAs beside the layers of a base, to train and to draw with: nothing is merged, and no layer is replaced."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn import Conv2d, Linear, Parameter
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

    @property
    def scale(self) -> float:
        """Of what the matrices say, for the layer."""
        return self.alpha / self.divisor


@dataclass(frozen=True, eq=False)
class TrainedLayer(LoraLayer):
    """What a LoRA that trains adds to one layer."""

    down: Parameter
    up: Parameter


@dataclass(frozen=True, eq=False)
class LoadedLora:
    """A LoRA file in host memory, checked against one base.

    Attributes:
        layers: named as `named_layers` names them.
        zero_terminal_snr: whether it was trained down to no signal, where pictures are then to begin.
    """

    path: str
    layers: Mapping[str, LoraLayer]
    zero_terminal_snr: bool = False

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

    One that trains acts by the same operations as one that is read from a file, so that both draw the same, bit for
    bit.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._layers = layers
        self._hooks: list[RemovableHandle] = []

    def set(self, loras: Sequence[tuple[LoadedLora, float]]) -> None:
        """Let exactly these act, each with its strength (1.0 is as trained); naming one twice adds its strengths.

        If it raises (a device's memory may not suffice), none acts.
        """
        self._hang({})
        strengths: dict[LoadedLora, float] = {}
        for lora, strength in loras:
            strengths[lora] = strengths.get(lora, 0.0) + strength
        terms: dict[str, list[_Term]] = {}
        for lora, strength in strengths.items():
            if strength != 0:
                for name, layer in lora.layers.items():
                    terms.setdefault(name, []).append(_term(layer, strength, self._layers[name]))
        self._hang(terms)

    def train(self, layers: Mapping[str, LoraLayer]) -> None:
        """Let exactly one act, whose matrices train: they are used where they lie, and in their own numbers."""
        self._hang({name: [_Term(lora.down, lora.up, lora.scale)] for name, lora in layers.items()})

    def _hang(self, terms: Mapping[str, Sequence[_Term]]) -> None:
        for hook in self._hooks:
            hook.remove()
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


def untrained(layer: Layer, rank: int, alpha: float) -> TrainedLayer:
    """A LoRA of one layer before its first step: down is random, up zero, so that it changes nothing yet.

    The deviation of down is that of PEFT's and diffusers' trainers, 1 / rank. Its values come from torch's global
    random source, and are float32 whatever the layer's are: an optimiser's small steps would be rounded away.
    """
    down, up = shapes(layer, rank)
    device = layer.weight.device
    return TrainedLayer(
        down=Parameter((torch.randn(down) / rank).to(device)),
        up=Parameter(torch.zeros(up, device=device)),
        alpha=alpha,
        divisor=rank,
    )


def _term(lora: LoraLayer, strength: float, layer: Layer) -> _Term:
    place = layer.weight.device, layer.weight.dtype
    return _Term(lora.down.to(*place), lora.up.to(*place), strength * lora.scale)


def _adding(terms: Sequence[_Term]) -> Callable[[Any, Any, Any], torch.Tensor]:
    def add(layer: Layer, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for term in terms:
            output = _added(layer, term, args[0], output)
        return output

    return add


def _added(layer: Layer, term: _Term, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The output and the LoRA's.

    What is scaled is what the layer's numbers have already: a matrix that trains is rounded to them only as it is
    multiplied, and scaled before that it would say something else than the one that is read from the file.
    """
    if isinstance(layer, Linear):
        hidden = linear(x, term.down)
        sums = torch.addmm(output.flatten(0, -2), hidden.flatten(0, -2), term.up.t(), alpha=term.scale)
        return sums.view_as(output)
    hidden = conv2d(x, term.down, stride=layer.stride, padding=layer.padding)
    return output + conv2d(hidden * term.scale, term.up)
