"""LoRA files: read for a base, and refused for every reason that would draw something else; and written for others.

Files come in diffusers' layout (`unet.….lora_A.weight`, or `….lora.down.weight` as older versions wrote), whose header
may say how each component's LoRA was made, and in kohya's (`lora_unet_….lora_down.weight`, with a tensor `….alpha` a
layer). Names are looked up among all that the base's layers can have (`maquette.families.lora_keys`), not parsed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
import torch
from msgspec import Struct
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file

from maquette.core.weights import BrokenWeights, read_header
from maquette.families.base import UnmatchedLora
from maquette.families.lora import Layer, LoadedLora, LoraLayer, divisor, shapes
from maquette.families.lora_keys import LoraKeys, fused, spellings

METADATA = "lora_adapter_metadata"
"""Header entry in which diffusers keeps each component's PEFT configuration."""

ZERO_TERMINAL_SNR = "ss_zero_terminal_snr"
"""Header entry by which kohya's trainers say, with `True`, that a LoRA was trained down to no signal; ours do too, in
either layout."""

PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
}
"""What the end of a key says that its tensor is."""

MAX_NAMED = 3
MAX_WORDS = 300
"""Characters of a library's error that are passed on."""


class PeftEntries(Struct, frozen=True):
    """The entries of a component's PEFT configuration that decide how its LoRA is read; PEFT knows the others."""

    r: int = 8
    lora_alpha: float = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False


def read_lora(path: str, layers: Mapping[str, Layer], keys: LoraKeys) -> LoadedLora:
    """Read a file into host memory in float32.

    Args:
        path: of the file.
        layers: the base's, each behind its component's name and without the level that only files have.
        keys: how files name them.

    Raises:
        UnmatchedLora: its keys match the base not at all, or only in part.
        BrokenWeights: it is no safetensors file, or holds numbers that are not finite.
        OSError: it can't be read.
    """
    metadata = read_header(Path(path)).metadata
    configs = _configs(path, metadata, keys)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise BrokenWeights(f"{path} can't be read: {error}") from error
    found = _by_layer(path, tensors, spellings(keys, layers), layers)
    _check_numbers(path, tensors)
    try:
        _check_whole(path, found, layers, configs)
        return LoadedLora(
            path,
            {name: _lora_layer(path, name, found[name], layers[name], configs) for name in found},
            zero_terminal_snr=metadata.get(ZERO_TERMINAL_SNR) == "True",
        )
    except re.error as error:
        raise BrokenWeights(f"{path}: a header with a pattern that can't be read: {error}") from error


def kohya_tensors(
    loras: Mapping[str, LoraLayer], layers: Mapping[str, Layer], keys: LoraKeys
) -> dict[str, torch.Tensor]:
    """A LoRA's tensors as kohya's trainers name and scale them, `up(down(x)) * alpha / rank`.

    Where several layers are one there, their matrices lie beside each other: the ranks add up, and with them alpha, so
    that every layer is given what it had. All of them must then have one scale, as ours do.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parts in fused(keys, layers).items():
        trained = [loras[part] for part in parts if part in loras]
        if not trained:
            continue
        rank = sum(len(lora.down) for lora in trained)
        tensors[f"{name}.lora_down.weight"] = torch.cat([lora.down for lora in trained])
        tensors[f"{name}.lora_up.weight"] = trained[0].up if len(parts) == 1 else _side_by_side(parts, loras, layers)
        tensors[f"{name}.alpha"] = torch.tensor(trained[0].alpha / trained[0].divisor * rank)
    return tensors


def _side_by_side(parts: Sequence[str], loras: Mapping[str, LoraLayer], layers: Mapping[str, Layer]) -> torch.Tensor:
    """The up matrices of layers that are one elsewhere (all outputs, all ranks), zero where one says nothing."""
    nothing = {part: torch.zeros(layers[part].weight.shape[0], 0) for part in parts}
    return torch.block_diag(*(loras[part].up if part in loras else nothing[part] for part in parts))


def _by_layer(
    path: str, tensors: Mapping[str, torch.Tensor], spelled: Mapping[str, Sequence[str]], layers: Mapping[str, Layer]
) -> dict[str, dict[str, torch.Tensor]]:
    """Each layer's tensors by what they are: down, up, and alpha where the file has one."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    foreign: list[str] = []
    for key, tensor in tensors.items():
        end = next((end for end in PARTS if key.endswith(end)), "")
        names = spelled.get(key.removesuffix(end)) if end else None
        if names is None:
            foreign.append(key)
            continue
        part = PARTS[end]
        divided = _divided(path, key, tensor, part, [layers[name] for name in names])
        for name, own in zip(names, divided, strict=True):
            if part in found.setdefault(name, {}):
                raise UnmatchedLora(f"{path}: has {key} a second time, in another layout")
            found[name][part] = own
    if not tensors:
        raise UnmatchedLora(f"{path}: holds no weights")
    if foreign:
        raise UnmatchedLora(
            f"{path}: {len(foreign)} of {len(tensors)} keys match no layer of this base: {_named(foreign)}"
        )
    return found


def _divided(path: str, key: str, tensor: torch.Tensor, part: str, layers: Sequence[Layer]) -> Sequence[torch.Tensor]:
    """A tensor for each of the layers that its name stands for: each has outputs of its own, and shares all else."""
    if part != "up" or len(layers) == 1:
        return [tensor] * len(layers)
    sizes = [layer.weight.shape[0] for layer in layers]
    if tensor.ndim == 0 or len(tensor) != sum(sizes):
        raise UnmatchedLora(
            f"{path} does not fit this base: {key} is {tuple(tensor.shape)}, and stands for layers with {sizes} outputs"
        )
    return tensor.split(sizes)


def _configs(path: str, metadata: Mapping[str, str], keys: LoraKeys) -> dict[str, LoraConfig]:
    """What the header says of each component's LoRA, read as PEFT reads it; nothing of those it does not mention."""
    configs: dict[str, LoraConfig] = {}
    try:
        entries: dict[str, object] = dict(json.loads(metadata.get(METADATA, "{}")))
        for component in keys:
            start = f"{component}."
            said = {key.removeprefix(start): value for key, value in entries.items() if key.startswith(start)}
            if said:
                # PEFT itself checks no types.
                msgspec.convert(said, PeftEntries)
                configs[component] = LoraConfig(**cast("dict[str, Any]", said))
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise BrokenWeights(f"{path}: a header that can't be read: {_shortened(error)}") from error
    if any(config.use_dora for config in configs.values()):
        raise UnmatchedLora(f"{path}: is a DoRA, which is not supported")
    return configs


def _check_whole(
    path: str,
    found: Mapping[str, Mapping[str, torch.Tensor]],
    layers: Mapping[str, Layer],
    configs: Mapping[str, LoraConfig],
) -> None:
    """Refuse half pairs, and files that lack layers which their own header says were trained."""
    half = [name for name, parts in found.items() if not parts.keys() >= {"down", "up"}]
    if half:
        raise UnmatchedLora(f"{path}: lacks half of a pair for {len(half)} of {len(found)} layers: {_named(half)}")
    targeted = [name for name in layers if _is_target(name, configs)]
    missing = [name for name in targeted if name not in found]
    if missing:
        raise UnmatchedLora(
            f"{path}: lacks {len(missing)} of the {len(targeted)} layers that its header names: {_named(missing)}"
        )


def _is_target(name: str, configs: Mapping[str, LoraConfig]) -> bool:
    component, _, rest = name.partition(".")
    config = configs.get(component)
    return config is not None and bool(config.target_modules) and bool(check_target_module_exists(config, rest))


def _check_numbers(path: str, tensors: Mapping[str, torch.Tensor]) -> None:
    broken = [key for key, tensor in tensors.items() if tensor.numel() == 0 or not torch.isfinite(tensor.float()).all()]
    if broken:
        raise BrokenWeights(
            f"{path}: {len(broken)} of {len(tensors)} weights are empty or not finite: {_named(broken)}"
        )


def _lora_layer(
    path: str, name: str, parts: Mapping[str, torch.Tensor], layer: Layer, configs: Mapping[str, LoraConfig]
) -> LoraLayer:
    down, up = parts["down"], parts["up"]
    rank = down.shape[0] if down.ndim else 0
    if (tuple(down.shape), tuple(up.shape)) != shapes(layer, rank) or rank == 0:
        _refuse_shape(path, name, parts, layer)
    component, _, rest = name.partition(".")
    config = configs.get(component)
    if config is not None and rank != _patterned(config.rank_pattern, rest, config.r):
        raise UnmatchedLora(f"{path}: {name} has rank {rank}, which is not what its header says")
    alpha = rank if config is None else _patterned(config.alpha_pattern, rest, config.lora_alpha)
    if "alpha" in parts:
        alpha = float(parts["alpha"].mean())
    return LoraLayer(
        # Copies: those of the file are a map of it, which would stay in memory, and follow the file's changes.
        down=down.to(torch.float32, copy=True),
        up=up.to(torch.float32, copy=True),
        alpha=alpha,
        divisor=divisor(rank, rank_stabilised=config is not None and config.use_rslora),
    )


def _refuse_shape(path: str, name: str, parts: Mapping[str, torch.Tensor], layer: Layer) -> NoReturn:
    given = " and ".join(str(tuple(parts[part].shape)) for part in ("down", "up"))
    raise UnmatchedLora(
        f"{path} does not fit this base: {name}, whose weight is {tuple(layer.weight.shape)}, is given {given}"
    )


def _patterned(pattern: Mapping[str, float] | None, name: str, otherwise: float) -> float:
    """The value for a layer in one of PEFT's maps from patterns of names to values."""
    return pattern.get(get_pattern_key(list(pattern), name), otherwise) if pattern else otherwise


def _named(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "")


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_WORDS]
