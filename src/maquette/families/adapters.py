"""LoRA on a base: a new one to train, or finished files to draw with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model

from maquette.core.specs import TrainingSettings
from maquette.families.lora import ActiveLoras, LoadedLora, LoraLayer, divisor, named_layers
from maquette.families.lora_file import METADATA, kohya_tensors, read_lora
from maquette.families.lora_keys import LoraKeys

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""What PEFT puts behind a layer's name."""

TRAINED = "trained"
"""Name of the adapter that trains; it never reaches a file."""

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

    def attach(self, settings: TrainingSettings) -> None:
        """Add an untrained LoRA: A drawn from torch's global random source, B zero, so that it changes nothing yet."""
        denoiser, *text_encoders = self.components.values()
        _add(denoiser, settings.lora_r, settings.lora_alpha)
        if settings.train_text_encoder:
            for encoder in text_encoders:
                _add(encoder, settings.lora_text_encoder_r, settings.lora_text_encoder_alpha)
        # The library makes them in the base's precision, in which an optimiser's small steps would be rounded away.
        cast_training_params([part.model for part in self.components.values()], torch.float32)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The attached LoRA's weights by their names in the diffusers file layout, sorted by name."""
        named: dict[str, torch.nn.Parameter] = {}
        for component, part in self.components.items():
            level = self.keys[component].level
            for name, parameter in part.model.named_parameters():
                if parameter.requires_grad:
                    layer = name.replace(f".{TRAINED}.", ".").removeprefix(level)
                    named[f"{component}.{level}{layer}"] = parameter
        return dict(sorted(named.items()))

    def metadata(self) -> dict[str, str]:
        """Ranks, alphas and targets, in the header entry that diffusers reads them from.

        Without it a reader would take alpha for equal to the rank and scale the LoRA wrongly.
        """
        entries: dict[str, object] = {}
        for component, config in self._configs().items():
            entries[f"{component}.r"] = config.r
            entries[f"{component}.lora_alpha"] = config.lora_alpha
            entries[f"{component}.target_modules"] = sorted(config.target_modules or ())
        return {METADATA: json.dumps(entries, sort_keys=True)}

    def kohya(self) -> dict[str, torch.Tensor]:
        """The attached LoRA's weights as kohya's trainers name and scale them, which ComfyUI reads."""
        matrices = {name: parameter.detach().cpu() for name, parameter in self.parameters().items()}
        loras: dict[str, LoraLayer] = {}
        for component, config in self._configs().items():
            level = f"{component}.{self.keys[component].level}"
            for name, matrix in matrices.items():
                if name.startswith(level) and name.endswith(DOWN):
                    layer = name.removesuffix(DOWN)
                    loras[f"{component}.{layer.removeprefix(level)}"] = LoraLayer(
                        down=matrix,
                        up=matrices[layer + UP],
                        alpha=config.lora_alpha,
                        divisor=divisor(config.r, rank_stabilised=config.use_rslora),
                    )
        return dict(sorted(kohya_tensors(loras, self.layers, self.keys).items()))

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

    def _configs(self) -> dict[str, LoraConfig]:
        """PEFT's configuration of every component that has a LoRA attached."""
        attached = {name: getattr(part.model, "peft_config", {}) for name, part in self.components.items()}
        return {name: configs[TRAINED] for name, configs in attached.items() if TRAINED in configs}


def _add(component: Component, rank: int, alpha: int) -> None:
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(component.targets), init_lora_weights="gaussian")
    # Not the models' own methods, which some lack.
    inject_adapter_in_model(config, component.model, TRAINED)
