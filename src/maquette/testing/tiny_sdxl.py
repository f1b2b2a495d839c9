"""A Stable Diffusion XL base with the real parts and random weights, small enough to train on in a test."""

from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from maquette.testing.tiny_parts import WIDTH, letter_tokenizer, tiny_autoencoder, tiny_clip

SECOND_WIDTH = 64
"""Of the second text encoder: by their widths diffusers tells the two apart in a file."""
TIME_NUMBERS = 8
"""In which each of the six numbers that tell a picture's size is embedded."""


def build_tiny_sdxl(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a base in diffusers layout; answer its folder.

    Its UNet has as many blocks and layers as the published one: files number them. Pictures may be of 64 pixels.

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
        "block_out_channels": (WIDTH, WIDTH, WIDTH),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "cross_attention_dim": WIDTH + SECOND_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_NUMBERS,
        "projection_class_embeddings_input_dim": 6 * TIME_NUMBERS + SECOND_WIDTH,
    }
    noise_schedule: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction_type,
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }
    parts: dict[str, Any] = {
        "vae": tiny_autoencoder(scaling_factor=0.13025, force_upcast=False),
        "text_encoder": CLIPTextModel(tiny_clip(tokenizer, layers=2)),
        "text_encoder_2": CLIPTextModelWithProjection(tiny_clip(tokenizer, layers=2, width=SECOND_WIDTH)),
        "tokenizer": tokenizer,
        "tokenizer_2": letter_tokenizer(),
        "unet": UNet2DConditionModel(**unet),
        "scheduler": EulerDiscreteScheduler(**noise_schedule),
        "force_zeros_for_empty_prompt": True,
        "add_watermarker": False,
    }
    StableDiffusionXLPipeline(**parts).save_pretrained(folder, safe_serialization=True)
    return folder
