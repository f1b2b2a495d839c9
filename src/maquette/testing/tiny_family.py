"""A Stable Diffusion base with the real parts and random weights, small enough to train on in a test."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from maquette.core.basefolder import base_sha256
from maquette.core.drawing import BaseUse
from maquette.testing.tiny_parts import WIDTH, letter_tokenizer, tiny_autoencoder, tiny_clip


def registered(folder: Path) -> BaseUse:
    """How a base's or an autoencoder's folder is asked for, once it is registered as it is now."""
    return BaseUse(str(folder), base_sha256(folder))


def build_tiny_base(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a base in diffusers layout, about three megabytes; answer its folder.

    Its latents are a quarter as wide and high as pictures, and its native size is 64 pixels.

    Args:
        folder: is made.
        prediction_type: of its noise scheduler.
        seed: decides its weights.
    """
    torch.manual_seed(seed)
    tokenizer = letter_tokenizer()
    unet: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (WIDTH, WIDTH),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    noise_schedule: dict[str, Any] = {
        "prediction_type": prediction_type,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    parts: dict[str, Any] = {
        "vae": tiny_autoencoder(),
        "text_encoder": CLIPTextModel(tiny_clip(tokenizer)),
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(**unet),
        "scheduler": DDIMScheduler(**noise_schedule),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    StableDiffusionPipeline(**parts).save_pretrained(folder, safe_serialization=True)
    return folder
