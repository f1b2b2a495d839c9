"""LoRA on a Stable Diffusion base: a new one to train, or finished files to draw with."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig

from maquette.core.drawing import LoraUse
from maquette.core.specs import TrainingSettings
from maquette.core.weights import BrokenWeights, read_header
from maquette.families.base import UnmatchedLora
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

TEXT_MODEL = "text_model."
"""Published LoRA files name the text encoder's layers below `text_model`; newer libraries leave that level out."""

LORA_PART = re.compile(r"\.lora[_.].*$")
MAX_NAMED_KEYS = 3
MAX_WORDS = 300
"""Characters of a library's error that are passed on; it may list hundreds of layers."""


class Sd15Adapters:
    """The LoRAs of one pipeline. Either one is attached to train, or files are in use; never both."""

    def __init__(self, pipeline: Sd15Pipeline) -> None:
        self.parts = pipeline.parts
        self.unet = pipeline.unet
        self.text_encoder = pipeline.text_encoder
        self.in_use: dict[str, str] = {}
        """Adapter name of each loaded file, by its path."""
        self.count = 0

    def attach(self, settings: TrainingSettings) -> None:
        """Add an untrained LoRA: A drawn from torch's global random source, B zero, so that it changes nothing yet."""
        self.unet.add_adapter(_config(settings.lora_r, settings.lora_alpha, UNET_TARGETS), TRAINED)
        if settings.train_text_encoder:
            config = _config(settings.lora_text_encoder_r, settings.lora_text_encoder_alpha, TEXT_ENCODER_TARGETS)
            self.text_encoder.add_adapter(config, TRAINED)

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
        return {"lora_adapter_metadata": json.dumps(entries, sort_keys=True)}

    def use(self, loras: Sequence[LoraUse]) -> None:
        """Let exactly these LoRA files act. A path stands for one content; naming it twice adds its strengths.

        Raises:
            UnmatchedLora: a file's keys match this base not at all or only in part; no LoRA acts then.
            OSError, BrokenWeights: a file can't be read.
        """
        strengths: dict[str, float] = {}
        for lora in loras:
            strengths[lora.path] = strengths.get(lora.path, 0.0) + lora.strength
        if not strengths:
            self._unload_all()
            return
        for path in [path for path in self.in_use if path not in strengths]:
            self.parts.delete_adapters(self.in_use.pop(path))
        try:
            for path in [path for path in strengths if path not in self.in_use]:
                self._load(path)
        except (BrokenWeights, OSError):
            self._unload_all()
            raise
        self.parts.set_adapters([self.in_use[path] for path in strengths], list(strengths.values()))

    def _load(self, path: str) -> None:
        read_header(Path(path))
        state, *_ = StableDiffusionPipeline.lora_state_dict(path, use_safetensors=True, local_files_only=True)
        self._check_keys(path, state)
        self.count += 1
        name = f"lora_{self.count}"
        try:
            with warnings.catch_warnings():
                # Several at once is just what is wanted.
                warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
                self.parts.load_lora_weights(path, adapter_name=name, use_safetensors=True, local_files_only=True)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            words = " ".join(str(error).split())[:MAX_WORDS]
            raise UnmatchedLora(f"{path} does not fit this base: {words}") from error
        self._check_filled(path, name, len(state))
        self.in_use[path] = name

    def _check_keys(self, path: str, state: dict[str, torch.Tensor]) -> None:
        modules = _module_names(self.unet, "unet.") | _module_names(self.text_encoder, "text_encoder.")
        foreign = [key for key in state if LORA_PART.sub("", key).replace(f".{TEXT_MODEL}", ".") not in modules]
        if not state:
            raise UnmatchedLora(f"{path}: holds no weights")
        if foreign:
            named = ", ".join(sorted(foreign)[:MAX_NAMED_KEYS])
            raise UnmatchedLora(f"{path}: {len(foreign)} of {len(state)} keys match no layer of this base: {named}")

    def _check_filled(self, path: str, name: str, given: int) -> None:
        """Libraries leave weights that a file lacks at random values, and only warn."""
        wanted = sum(
            f".{name}." in weight for model in (self.unet, self.text_encoder) for weight, _ in model.named_parameters()
        )
        if given != wanted:
            raise UnmatchedLora(f"{path}: holds {given} of the {wanted} weights that its layers need")

    def _unload_all(self) -> None:
        self.parts.unload_lora_weights()
        self.in_use.clear()


def _config(rank: int, alpha: int, targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian")


def _trained(model: torch.nn.Module, prefix: str) -> dict[str, torch.nn.Parameter]:
    return {
        prefix + name.replace(f".{TRAINED}.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _module_names(model: torch.nn.Module, prefix: str) -> set[str]:
    """Names of a model's layers as files call them, whether or not LoRAs wrap them at the moment."""
    return {
        (prefix + name).removesuffix(".base_layer").replace(f".{TEXT_MODEL}", ".") for name, _ in model.named_modules()
    }
