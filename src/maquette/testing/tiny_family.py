"""A Stable Diffusion base with the real parts and random weights, small enough to train on in a test."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from maquette.core.basefolder import base_sha256
from maquette.core.drawing import BaseUse

WIDTH = 32
"""Channels of everything; narrower ones fall off the convolution kernels' fast path and train slower."""
POSITIONS = 77


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
    tokenizer: Any = _tokenizer()
    # Keywords through maps: the libraries' annotations are narrower than what they take.
    vae: dict[str, Any] = {
        "block_out_channels": (WIDTH, WIDTH, WIDTH),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 64,
        "mid_block_add_attention": False,
    }
    text_encoder: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "projection_dim": WIDTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
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
        "vae": AutoencoderKL(**vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text_encoder)),
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(**unet),
        "scheduler": DDIMScheduler(**noise_schedule),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    StableDiffusionPipeline(**parts).save_pretrained(folder, safe_serialization=True)
    return folder


def _tokenizer() -> CLIPTokenizer:
    """Reads any text letter by letter: every byte, and every byte that ends a word."""
    letters = list(bytes_to_unicode().values())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[], model_max_length=POSITIONS
    )
