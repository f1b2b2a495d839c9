"""A FLUX.1 base with the real parts and random weights, small enough to train on in a test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from maquette.testing.tiny_parts import WIDTH, letter_tokenizer, t5_letter_tokenizer, tiny_autoencoder, tiny_clip

LATENT_CHANNELS = 16
TINY: Mapping[str, Any] = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": (4, 6, 6),
}
WIDE: Mapping[str, Any] = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "axes_dims_rope": (16, 56, 56),
}
"""As wide as FLUX.1 was published: where its layers are one, diffusers' converters divide them at its numbers only."""


def build_tiny_flux1(folder: Path, *, guided: bool = True, seed: int = 0) -> Path:
    """Write a base in diffusers layout; answer its folder. Pictures may be of 64 pixels.

    Args:
        folder: is made.
        guided: whether it is told its guidance and shifts its levels by the picture's size, as the published [dev] is,
            or neither, as [schnell].
        seed: decides its weights.
    """
    return _build(folder, TINY, guided=guided, seed=seed)


def build_wide_flux1(folder: Path) -> Path:
    """Write a base with one block of each kind, as wide as those of the published ones (two gigabytes)."""
    return _build(folder, WIDE, guided=True, seed=0)


def _build(folder: Path, blocks: Mapping[str, Any], *, guided: bool, seed: int) -> Path:
    torch.manual_seed(seed)
    tokenizer, t5_tokenizer = letter_tokenizer(), t5_letter_tokenizer()
    transformer: dict[str, Any] = {
        "in_channels": 4 * LATENT_CHANNELS,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "guidance_embeds": guided,
        **blocks,
    }
    t5 = T5Config(
        vocab_size=len(t5_tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // 2,
        d_ff=2 * WIDTH,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    parts: dict[str, Any] = {
        "vae": tiny_autoencoder(
            LATENT_CHANNELS, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        ),
        "text_encoder": CLIPTextModel(tiny_clip(tokenizer)),
        "text_encoder_2": T5EncoderModel(t5),
        "tokenizer": tokenizer,
        "tokenizer_2": t5_tokenizer,
        "transformer": FluxTransformer2DModel(**transformer),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0 if guided else 1.0, use_dynamic_shifting=guided),
    }
    FluxPipeline(**parts).save_pretrained(folder, safe_serialization=True)
    return folder
