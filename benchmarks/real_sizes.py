"""Published models in their real sizes, of random weights: what they compute is noise, what it costs is real."""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


@torch.no_grad()
def sd15_unet() -> UNet2DConditionModel:
    """SD 1.5's denoiser, 860 million random weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet.to_empty(device="cpu")
    for weight in unet.parameters():
        weight.normal_(std=0.02)
    return unet.eval()


def sd15_text_encoder() -> CLIPTextModel:
    """SD 1.5's text encoder, 123 million random weights."""
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return CLIPTextModel(config).eval()


def sd15_vae() -> AutoencoderKL:
    """SD 1.5's autoencoder, 84 million random weights."""
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    }
    return AutoencoderKL(**config).eval()
