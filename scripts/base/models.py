"""The shapes of the five parts of the pipeline."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tokenizer import MAX_LENGTH

RESOLUTION = 128
LATENT_CHANNELS = 8
LATENT_SIZE = RESOLUTION // 8
TEXT_WIDTH = 128


def build_vae() -> AutoencoderKL:
    """Pictures [batch, 3, 128, 128] in -1..1 to latents [batch, 8, 16, 16] and back.

    Convolutions only: attention at 16×16 would cost more than it gives to pictures as simple as ours.
    """
    widths = (32, 48, 64, 96)
    return AutoencoderKL(
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
