"""How LoRA files name the layers of a base. Torch-free.

A layer's own name is that of its module in diffusers' model. Files in diffusers' layout have it behind the component's
name (`unet.….lora_A.weight`); those of kohya's trainers, which ComfyUI and the web interfaces read, turn the dots of a
name into underscores, and some families' names into those of the model that was published first.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct


class ComponentKeys(Struct, frozen=True, kw_only=True):
    """How files name the layers of one component.

    Attributes:
        kohya: what kohya's names begin with. The first is written, the others are read as well.
        level: a level below which files have the layers, and today's libraries don't (`text_model.`).
        renamed: pairs of a pattern in a layer's name and of what kohya's name has in its place, applied one after the
            other. Layers that come to the same name are one there, whose outputs lie in the order of these pairs.
    """

    kohya: tuple[str, ...]
    level: str = ""
    renamed: tuple[tuple[str, str], ...] = ()

    def published(self, layer: str) -> str:
        """A layer's name in the model that kohya's trainers know; its own where they know diffusers'."""
        name = self.level + layer
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    def place(self, layer: str) -> int:
        """Where a layer comes among those of the same name."""
        return next((index for index, (pattern, _) in enumerate(self.renamed) if re.search(pattern, layer)), 0)


LoraKeys: TypeAlias = Mapping[str, ComponentKeys]
"""By the components' names in diffusers' pipeline; the denoiser's comes first."""


def fused(keys: LoraKeys, layers: Iterable[str]) -> dict[str, list[str]]:
    """Layers, each behind its component's name, by the name that kohya's trainers write; several are in order."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        component, _, rest = layer.partition(".")
        found.setdefault(flat(keys[component].kohya[0], keys[component].published(rest)), []).append(layer)
    return {name: _in_order(keys, parts) for name, parts in found.items()}


def spellings(keys: LoraKeys, layers: Iterable[str]) -> dict[str, Sequence[str]]:
    """The layers that a name stands for, by every way in which files write them."""
    every = list(layers)
    spelled: dict[str, Sequence[str]] = {layer: (layer,) for layer in every}
    by_published: dict[tuple[str, str], list[str]] = {}
    for layer in every:
        component, _, rest = layer.partition(".")
        own = keys[component]
        spelled[f"{component}.{own.level}{rest}"] = (layer,)
        spelled |= {flat(prefix, own.level + rest): (layer,) for prefix in own.kohya}
        by_published.setdefault((component, own.published(rest)), []).append(layer)
    for (component, name), parts in by_published.items():
        spelled |= {flat(prefix, name): _in_order(keys, parts) for prefix in keys[component].kohya}
    return spelled


def flat(prefix: str, name: str) -> str:
    """A name as kohya's trainers write it."""
    return f"{prefix}_{name.replace('.', '_')}"


def _in_order(keys: LoraKeys, layers: Iterable[str]) -> list[str]:
    def place(layer: str) -> int:
        component, _, rest = layer.partition(".")
        return keys[component].place(rest)

    return sorted(layers, key=place)
