"""LoRA on a Stable Diffusion base: a new one to train, or finished files to draw with."""

import json
from collections.abc import Sequence

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig

from maquette.core.specs import TrainingSettings
from maquette.families.lora import ActiveLoras, LoadedLora, named_layers
from maquette.families.sd15.lora_file import METADATA, TEXT_ENCODER, TEXT_MODEL, UNET, read_lora
from maquette.families.sd15.pipeline import Sd15Pipeline

UNET_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut"),
)
"""Attention, feed-forward and the residual blocks' convolutions.

Attention alone learns how words steer what the base can draw already; shapes it has never drawn, such as a small
base's unseen character, need the layers that draw as well (the field calls such a LoRA LoCon).
"""

TEXT_ENCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")

TRAINED = "trained"
"""Name of the adapter that trains; it never reaches a file."""


class Sd15Adapters:
    """The LoRAs of one pipeline. Either one is attached to train, or files act; never both."""

    def __init__(self, pipeline: Sd15Pipeline) -> None:
        self.unet = pipeline.unet
        self.text_encoder = pipeline.text_encoder
        self.layers = {f"{UNET}.{name}": layer for name, layer in named_layers(self.unet).items()} | {
            f"{TEXT_ENCODER}.{name.removeprefix(TEXT_MODEL)}": layer
            for name, layer in named_layers(self.text_encoder).items()
        }
        self.active = ActiveLoras(self.layers)

    def attach(self, settings: TrainingSettings) -> None:
        """Add an untrained LoRA: A drawn from torch's global random source, B zero, so that it changes nothing yet."""
        self.unet.add_adapter(_config(settings.lora_r, settings.lora_alpha, UNET_TARGETS), TRAINED)
        if settings.train_text_encoder:
            config = _config(settings.lora_text_encoder_r, settings.lora_text_encoder_alpha, TEXT_ENCODER_TARGETS)
            self.text_encoder.add_adapter(config, TRAINED)
        # The library makes them in the base's precision, in which an optimiser's small steps would be rounded away.
        cast_training_params([self.unet, self.text_encoder], torch.float32)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The attached LoRA's weights by their names in the diffusers file layout, sorted by name."""
        prefix = "text_encoder." if hasattr(self.text_encoder, "text_model") else f"text_encoder.{TEXT_MODEL}"
        named = _trained(self.unet, "unet.") | _trained(self.text_encoder, prefix)
        return dict(sorted(named.items()))

    def metadata(self) -> dict[str, str]:
        """Ranks, alphas and targets, in the header entry that diffusers reads them from.

        Without it a reader would take alpha for equal to the rank and scale the LoRA wrongly.
        """
        entries: dict[str, object] = {}
        for component, model in (("unet", self.unet), ("text_encoder", self.text_encoder)):
            config = getattr(model, "peft_config", {}).get(TRAINED)
            if config is not None:
                entries[f"{component}.r"] = config.r
                entries[f"{component}.lora_alpha"] = config.lora_alpha
                entries[f"{component}.target_modules"] = sorted(config.target_modules)
        return {METADATA: json.dumps(entries, sort_keys=True)}

    def read(self, path: str) -> LoadedLora:
        """Read a LoRA file into host memory, and check that it fits this base, wholly.

        Raises:
            UnmatchedLora: its keys match this base not at all or only in part.
            OSError, BrokenWeights: the file can't be read, or holds numbers that are not finite.
        """
        return read_lora(path, self.layers)

    def activate(self, loras: Sequence[tuple[LoadedLora, float]]) -> None:
        """Let exactly these LoRAs act, each with its strength; naming one twice adds its strengths."""
        self.active.set(loras)


def _config(rank: int, alpha: int, targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian")


def _trained(model: torch.nn.Module, prefix: str) -> dict[str, torch.nn.Parameter]:
    return {
        prefix + name.replace(f".{TRAINED}.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
