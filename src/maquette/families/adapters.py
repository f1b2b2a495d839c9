"""LoRA on a base: a new one to train, or finished files to draw with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maquette.core.specs import TrainingSettings
from maquette.families.lora import ActiveLoras, LoadedLora, LoraLayer, TrainedLayer, named_layers, untrained
from maquette.families.lora_file import METADATA, kohya_tensors, read_lora
from maquette.families.lora_keys import LoraKeys
from maquette.families.samplers import DiffusionSamplers

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""What diffusers' layout puts behind a layer's name."""

CLIP_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Attention of a text encoder of CLIP's kind."""


@dataclass(frozen=True)
class Component:
    """A part of a base that a LoRA may touch.

    Attributes:
        model: frozen.
        targets: ends of the names of the layers that a new LoRA is put on; none where it never is.
    """

    model: Any
    targets: Sequence[str]


class LoraAdapters:
    """The LoRAs of one pipeline. Either one is attached to train, or files act; never both."""

    def __init__(self, keys: LoraKeys, components: Mapping[str, Component]) -> None:
        """Take the components by their names in diffusers' pipeline, the denoiser first, and how files name them."""
        self.keys = keys
        self.components = components
        self.layers = {
            f"{component}.{name.removeprefix(keys[component].level)}": layer
            for component, part in components.items()
            for name, layer in named_layers(part.model).items()
        }
        self.active = ActiveLoras(self.layers)
        self.trained: dict[str, TrainedLayer] = {}

    def attach(self, settings: TrainingSettings) -> None:
        """Add an untrained LoRA, which changes nothing yet; its values come from torch's global random source."""
        denoiser, *text_encoders = self.components
        self._put_on(denoiser, settings.lora_r, settings.lora_alpha)
        if settings.train_text_encoder:
            for encoder in text_encoders:
                self._put_on(encoder, settings.lora_text_encoder_r, settings.lora_text_encoder_alpha)
        self.active.train(self.trained)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The attached LoRA's weights by their names in the diffusers file layout, sorted by name."""
        named: dict[str, torch.nn.Parameter] = {}
        for layer, lora in self.trained.items():
            component, _, rest = layer.partition(".")
            name = f"{component}.{self.keys[component].level}{rest}"
            named |= {name + DOWN: lora.down, name + UP: lora.up}
        return dict(sorted(named.items()))

    def metadata(self) -> dict[str, str]:
        """Ranks, alphas and targets, in the header entry that diffusers reads them from.

        Without it a reader would take alpha for equal to the rank and scale the LoRA wrongly.
        """
        entries: dict[str, object] = {}
        for layer, lora in self.trained.items():
            component = layer.partition(".")[0]
            entries[f"{component}.r"] = len(lora.down)
            entries[f"{component}.lora_alpha"] = lora.alpha
            entries[f"{component}.target_modules"] = sorted(self.components[component].targets)
        return {METADATA: json.dumps(entries, sort_keys=True)}

    def kohya(self) -> dict[str, torch.Tensor]:
        """The attached LoRA's weights as kohya's trainers name and scale them, which ComfyUI reads."""
        still = {
            name: LoraLayer(lora.down.detach().cpu(), lora.up.detach().cpu(), lora.alpha, lora.divisor)
            for name, lora in self.trained.items()
        }
        return dict(sorted(kohya_tensors(still, self.layers, self.keys).items()))

    def read(self, path: str) -> LoadedLora:
        """Read a LoRA file into host memory, and check that it fits this base, wholly.

        Raises:
            UnmatchedLora: its keys match this base not at all or only in part.
            OSError, BrokenWeights: the file can't be read, or holds numbers that are not finite.
        """
        return read_lora(path, self.layers, self.keys)

    def activate(self, loras: Sequence[tuple[LoadedLora, float]]) -> None:
        """Let exactly these LoRAs act, each with its strength; naming one twice adds its strengths."""
        self.active.set(loras)

    def _put_on(self, component: str, rank: int, alpha: int) -> None:
        """Add an untrained LoRA to those layers of a component whose names end as its targets do."""
        ends = tuple(f".{target}" for target in self.components[component].targets)
        for name, layer in self.layers.items():
            if name.startswith(f"{component}.") and name.endswith(ends):
                self.trained[name] = untrained(layer, rank, alpha)


class DiffusionAdapters(LoraAdapters):
    """The LoRAs of one base of diffusion: while one acts that was trained down to no signal, pictures begin there."""

    def __init__(self, keys: LoraKeys, components: Mapping[str, Component], samplers: DiffusionSamplers) -> None:
        """Take besides what the pipeline draws with."""
        super().__init__(keys, components)
        self.samplers = samplers

    def attach(self, settings: TrainingSettings) -> None:
        """Add an untrained LoRA, with which pictures are drawn as it is trained."""
        super().attach(settings)
        self.samplers.zero_terminal_snr = settings.zero_terminal_snr

    def activate(self, loras: Sequence[tuple[LoadedLora, float]]) -> None:
        """Let exactly these LoRAs act, each with its strength; naming one twice adds its strengths."""
        # Where it raises, none acts.
        self.samplers.zero_terminal_snr = False
        super().activate(loras)
        self.samplers.zero_terminal_snr = any(lora.zero_terminal_snr for lora, strength in loras if strength != 0)
