"""The shapes of the five parts of the pipeline."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from tokenizer import MAX_LENGTH
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

RESOLUTION = 128
LATENT_CHANNELS = 8
LATENT_SIZE = RESOLUTION // 8
TEXT_WIDTH = 128


def build_vae() -> AutoencoderKL:
    """Pictures [batch, 3, 128, 128] in -1..1 to latents [batch, 8, 16, 16] and back.

    Convolutions only: attention at 16x16 would cost more than it gives to pictures as simple as ours.
    """
    widths = (32, 48, 64, 96)
    vae = AutoencoderKL(
        sample_size=RESOLUTION,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # the export folds the latents' normalisation into the weights
    )
    _pass_colours_through(vae)
    return vae


@torch.no_grad()
def _pass_colours_through(vae: AutoencoderKL) -> None:
    """Start the VAE as one that shrinks a picture to 16x16 pixels and enlarges it again.

    From a random start, thousands of steps go by in greys: group normalisation hides a flat picture's colour, and the
    decoder has to discover it through a dozen layers. From this one, the colours are there at once.
    """
    encoder, decoder = vae.encoder, vae.decoder
    for module in vae.modules():
        match module:
            case ResnetBlock2D():
                module.conv2.weight.mul_(0.1)
                nn.init.zeros_(module.conv2.bias)
                if module.conv_shortcut is not None:
                    _copy_channels(module.conv_shortcut, [(0, 0)])
            case Downsample2D():
                _copy_channels(module.conv, [(0, 0), (0, 1), (1, 0), (1, 1)])
            case Upsample2D():
                _copy_channels(module.conv, [(1, 1)])
            case _:
                pass
    for conv in (encoder.conv_in, encoder.conv_out, decoder.conv_in, decoder.conv_out):
        _copy_channels(conv, [(1, 1)], channels=3)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _copy_channels(conv, [(0, 0)], channels=3)
    for norm in (encoder.conv_norm_out, decoder.conv_norm_out):
        norm.bias[:3] = 1.0  # around 1 the SiLU that follows is nearly linear
    vae.quant_conv.bias[LATENT_CHANNELS:] = -3.0  # little noise on the latents from the start


def _copy_channels(conv: nn.Conv2d, taps: list[tuple[int, int]], channels: int | None = None) -> None:
    """Let the first `channels` (all there are, by default) pass a convolution as the mean of the kernel's `taps`."""
    channels = channels or min(conv.in_channels, conv.out_channels)
    conv.weight[:channels].zero_()
    conv.bias[:channels].zero_()
    for channel in range(channels):
        for row, column in taps:
            conv.weight[channel, channel, row, column] = 1 / len(taps)


def build_unet() -> UNet2DConditionModel:
    """Latents [batch, 8, 16, 16], timesteps and text [batch, 77, 128] to a velocity of the latents' shape."""
    widths = (96, 128)
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,  # diffusers reads this as the number of heads
        norm_num_groups=16,
        use_linear_projection=True,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Token ids [batch, 77] to text [batch, 77, 128]."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_noise_scheduler() -> DDIMScheduler:
    """The schedule for training and for the pipeline.

    Its last step keeps a signal-to-noise ratio of 4e-5: as good as none, so that a sampler may start from pure noise,
    and yet above zero, so that every sampler of diffusers can divide by it.
    """
    return DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
