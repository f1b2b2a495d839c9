"""How many numbers does training keep for the backward pass, for each pixel, and for each prompt where text encoders
train? How many are alive at once while a picture is decoded? What families' memory models say.

    python benchmarks/kept_numbers.py

Nothing is computed: published shapes run on torch's meta device, with a LoRA of rank 1 where the family puts it, and
what autograd saves is counted, weights left out and attention fused as on a GPU. A device takes more than that, for
copies in other precisions and for what lives during one operation only. How much more is taken from Stable Diffusion
1.5, whose use an H200 has shown (results/train_loop_sd15_real_cuda.json): the others' counts are scaled alike. That is
more than they take: of what was measured of them too, models say as much.
"""

import sys
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maquette.families.adapters import CLIP_TARGETS
from maquette.families.flux1.adapters import TRANSFORMER_TARGETS
from maquette.families.lora import ActiveLoras, named_layers, untrained
from maquette.families.registry import load_spec
from maquette.families.sd15.adapters import UNET_TARGETS as SD15_TARGETS
from maquette.families.sdxl.adapters import UNET_TARGETS as SDXL_TARGETS
from real_sizes import (
    autoencoder,
    flux1_transformer,
    making,
    sd15_text_encoder,
    sd15_unet,
    sdxl_second_text_encoder,
    sdxl_unet,
)

META = torch.device("meta")
SIDES = (512, 1024)
RECOMPUTED = ("ResnetBlock2D", "BasicTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock")
"""Modules whose insides are computed again with gradient checkpointing."""
TOKENS = 77
"""Of a prompt that CLIP reads."""
NUMBER = 2
"""Bytes of a number in bfloat16."""


@dataclass(frozen=True)
class Kept:
    """Numbers a pixel: of a whole pass, and of one with gradient checkpointing, its largest module's insides added."""

    activations: float
    recomputed: float


class Fused(torch.autograd.Function):
    """What a fused attention keeps: queries, keys, values, its answer, and a number a row."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Answer something of the right shape."""
        answer = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, answer, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Never asked for."""
        raise NotImplementedError


class Alive(TorchDispatchMode):
    """Counts the bytes of what is computed within the block, and how many there were at once at most."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and take note of what came out."""
        answer = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, torch.Tensor):
                self._begin(tensor.untyped_storage())
        return answer

    def _begin(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())

    def _end(self, storage: int, size: int) -> None:
        self._seen.discard(storage)
        self._now -= size


def main() -> int:
    """Print counts, and what they come to."""
    diffusers.utils.logging.set_verbosity_error()
    found = {name: {side: count(build, call, side) for side in SIDES} for name, (build, call) in FAMILIES.items()}
    known, counted = load_spec("sd15").memory, found["sd15"][512]
    shares = known.activations / counted.activations, known.recomputed / counted.recomputed
    print(f"scaled by {shares[0]:.2f}, and with gradient checkpointing by {shares[1]:.2f}")
    for name, sides in found.items():
        for side, kept in sides.items():
            whole, recomputed = kept.activations * shares[0], kept.recomputed * shares[1]
            print(
                f"{name} at {side}: {kept.activations:.0f} counted, {whole:.0f} scaled; "
                f"with gradient checkpointing {kept.recomputed:.0f} and {recomputed:.0f}"
            )
    for name, encoders in TEXT_ENCODERS.items():
        kept = sum(count_prompt(encoder) for encoder in encoders)
        print(f"{name}, a prompt: {kept:.0f} counted, {kept * shares[0]:.0f} scaled")
    for side in SIDES:
        print(f"decoding at {side}: {count_decoded(side):.0f} at once, as they are")
    return 0


def count(build: Callable[[], Any], call: Callable[[Any, int], Any], side: int) -> Kept:
    """Count for one picture of this side."""
    model = build().to(torch.bfloat16).train()
    pixels = side * side
    largest = 0.0
    with saving(model) as numbers, patch("torch.nn.functional.scaled_dot_product_attention", fused):
        begun: dict[torch.nn.Module, float] = {}

        def begin(module: torch.nn.Module, _inputs: Any) -> None:
            begun[module] = numbers()

        def end(module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
            nonlocal largest
            largest = max(largest, numbers() - begun[module])

        for module in model.modules():
            if type(module).__name__ in RECOMPUTED:
                module.register_forward_pre_hook(begin)
                module.register_forward_hook(end)
        call(model, side)
        whole = numbers()
    model.enable_gradient_checkpointing()
    with saving(model) as numbers:
        call(model, side)
        inputs = numbers()
    return Kept(whole / pixels, (inputs + largest) / pixels)


def count_prompt(build: Callable[[], Any]) -> float:
    """Count what a text encoder that trains keeps of one prompt."""
    model = build().to(torch.bfloat16).train()
    with saving(model) as numbers, patch("torch.nn.functional.scaled_dot_product_attention", fused):
        model(zeros(1, TOKENS, dtype=torch.long))
        return numbers()


@torch.no_grad()
def count_decoded(side: int) -> float:
    """Count, for each pixel, the numbers of float32 that are alive at once while an autoencoder decodes."""
    with making(META, torch.float32):
        model: Any = autoencoder()
    with Alive() as alive:
        model.decode(zeros(1, 4, side // 8, side // 8, dtype=torch.float32))
    return alive.most / torch.float32.itemsize / side**2


@contextmanager
def saving(model: torch.nn.Module) -> Generator[Callable[[], float]]:
    """Count the numbers that autograd saves within the block, the model's own weights left out."""
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in seen.values()) / NUMBER


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_options: Any) -> torch.Tensor:
    """In place of the attention that writes all its weights down."""
    return Fused.apply(query, key, value)


# ------------------------------------------------------------------------------------------------------------ shapes


def with_lora(build: Callable[[], Any], targets: Sequence[str]) -> Any:
    """A model without values, and a LoRA of rank 1 on it."""
    ends = tuple(f".{target}" for target in targets)
    with making(META, torch.bfloat16):
        model = build().requires_grad_(False)
        layers = {name: layer for name, layer in named_layers(model).items() if name.endswith(ends)}
        ActiveLoras(layers).train({name: untrained(layer, rank=1, alpha=1) for name, layer in layers.items()})
    return model


def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without values."""
    return torch.zeros(shape, device=META, dtype=dtype)


def call_sd15(unet: Any, side: int) -> Any:
    """One prompt of 77 tokens."""
    return unet(zeros(1, 4, side // 8, side // 8), zeros(1), zeros(1, 77, 768)).sample


def call_sdxl(unet: Any, side: int) -> Any:
    """One prompt of 77 tokens, and a picture's size."""
    told = {"text_embeds": zeros(1, 1280), "time_ids": zeros(1, 6)}
    return unet(zeros(1, 4, side // 8, side // 8), zeros(1), zeros(1, 77, 2048), added_cond_kwargs=told).sample


def call_flux1(transformer: Any, side: int) -> Any:
    """One prompt of 512 tokens."""
    patches = (side // 16) ** 2
    return transformer(
        hidden_states=zeros(1, patches, 64),
        timestep=zeros(1),
        guidance=zeros(1),
        pooled_projections=zeros(1, 768),
        encoder_hidden_states=zeros(1, 512, 4096),
        txt_ids=zeros(512, 3),
        img_ids=zeros(patches, 3),
    ).sample


FAMILIES: Mapping[str, tuple[Callable[[], Any], Callable[[Any, int], Any]]] = {
    "sd15": (partial(with_lora, sd15_unet, SD15_TARGETS), call_sd15),
    "sdxl": (partial(with_lora, sdxl_unet, SDXL_TARGETS), call_sdxl),
    "flux1": (partial(with_lora, flux1_transformer, TRANSFORMER_TARGETS), call_flux1),
}

CLIP_LARGE = partial(with_lora, sd15_text_encoder, CLIP_TARGETS)
CLIP_BIG = partial(with_lora, sdxl_second_text_encoder, CLIP_TARGETS)
TEXT_ENCODERS: Mapping[str, Sequence[Callable[[], Any]]] = {
    "sd15": (CLIP_LARGE,),
    "sdxl": (CLIP_LARGE, CLIP_BIG),
    "flux1": (CLIP_LARGE,),
}
"""Those that a LoRA may be put on."""


if __name__ == "__main__":
    sys.exit(main())
