"""Published models in their real sizes, of random weights: what they compute is noise, what it costs is real.

Tokenizers and schedules are those of the tests' tiny bases, which say little but cost the same.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from maquette.families.precision import weight_dtype
from maquette.testing.tiny_bases import TINY_BASES

CPU = torch.device("cpu")
T5_LAYERS = {"measured": 2, "published": 24}
REDUCED: Mapping[str, Mapping[str, Mapping[str, int]]] = {"flux1": {"text_encoder_2.num_layers": T5_LAYERS}}
"""By family, what is smaller here than published: FLUX.1's T5 reads each prompt once, before the steps measured."""


@torch.no_grad()
def sd15_unet() -> UNet2DConditionModel:
    """SD 1.5's denoiser, 860 million weights."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()


def sd15_text_encoder() -> CLIPTextModel:
    """SD 1.5's text encoder, and SDXL's and FLUX.1's first one: 123 million weights."""
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return CLIPTextModel(config).eval()


def sdxl_unet() -> UNet2DConditionModel:
    """SDXL 1.0's denoiser, 2.6 billion weights."""
    config: dict[str, Any] = {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    return UNet2DConditionModel(**config).eval()


def sdxl_second_text_encoder() -> CLIPTextModelWithProjection:
    """SDXL 1.0's second text encoder, 695 million weights."""
    config = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )
    return CLIPTextModelWithProjection(config).eval()


def flux1_transformer() -> FluxTransformer2DModel:
    """FLUX.1 [dev]'s denoiser, 11.9 billion weights."""
    return FluxTransformer2DModel(guidance_embeds=True).eval()


def flux1_second_text_encoder() -> T5EncoderModel:
    """T5 v1.1 XXL's encoder, as wide as published, and not as deep."""
    config = T5Config(
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=T5_LAYERS["measured"],
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def autoencoder(latent_channels: int = 4, **config: Any) -> AutoencoderKL:
    """SD 1.5's autoencoder, 84 million weights; the others' differ in what they are told alone."""
    shapes: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": latent_channels,
        "sample_size": 512,
    }
    return AutoencoderKL(**shapes, **config).eval()


FAMILIES: Mapping[str, tuple[Any, Mapping[str, Callable[[], Any]]]] = {
    "sd15": (
        StableDiffusionPipeline,
        {"unet": sd15_unet, "text_encoder": sd15_text_encoder, "vae": autoencoder},
    ),
    "sdxl": (
        StableDiffusionXLPipeline,
        {
            "unet": sdxl_unet,
            "text_encoder": sd15_text_encoder,
            "text_encoder_2": sdxl_second_text_encoder,
            "vae": lambda: autoencoder(scaling_factor=0.13025, force_upcast=False),
        },
    ),
    "flux1": (
        FluxPipeline,
        {
            "transformer": flux1_transformer,
            "text_encoder": sd15_text_encoder,
            "text_encoder_2": flux1_second_text_encoder,
            "vae": lambda: autoencoder(
                16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
            ),
        },
    ),
}
"""Diffusers' pipeline of a family, and its models."""


def real_parts(family: str, folder: Path, device: torch.device) -> Any:
    """A family's published base, but for what is `REDUCED`, on a device, in the precision that bases rest in there.

    Args:
        folder: for what of it must lie in files; is made.
    """
    library, models = FAMILIES[family]
    tiny = TINY_BASES.load(family).build(folder)
    made: dict[str, Any] = {}
    for name, build in models.items():
        with making(device, torch.float32 if name == "vae" else weight_dtype(device)):
            made[name] = build()
    return library.from_pretrained(str(tiny), local_files_only=True, **made)


@contextmanager
def making(device: torch.device, dtype: torch.dtype) -> Generator[None]:
    """Have models made where they are to be, in the numbers that they are to have."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
