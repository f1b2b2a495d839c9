"""A Stable Diffusion base on a device, and the one way pictures are drawn with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline
from PIL import Image

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import DrawRequest
from maquette.families.base import Conditioning, LatentPosterior

# Bars are for terminals; our output is a log.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


class Sd15Pipeline:
    """Autoencoder, denoiser, text encoder and noise schedule of one base, frozen."""

    def __init__(self, parts: StableDiffusionPipeline) -> None:
        self.parts = parts
        self.parts.set_progress_bar_config(disable=True)
        self.vae = parts.vae.requires_grad_(False)
        self.unet = parts.unet.requires_grad_(False)
        self.text_encoder = parts.text_encoder.requires_grad_(False)

    @classmethod
    def load(cls, base: Path, device: torch.device) -> Self:
        """Load a base's folder in float32, whatever precision its files have.

        Raises:
            BrokenBase: the folder lacks a part, or a part can't be used.
        """
        try:
            parts = StableDiffusionPipeline.from_pretrained(
                str(base),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise BrokenBase(f"the base in {base} can't be loaded: {error}") from error
        return cls(parts.to(device))

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor) -> LatentPosterior:
        """Encode pictures (pictures, 3, height, width) in [-1, 1] to latents an eighth as wide and high."""
        posterior = self.vae.encode(pixels.to(self.vae.device)).latent_dist
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor or 0.0
        return LatentPosterior(mean=(posterior.mean - shift) * scale, std=posterior.std * scale)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts to `prompt_embeds` (prompts, tokens, width), the way drawing does."""
        embeds, _ = self.parts.encode_prompt(
            list(prompts), self.text_encoder.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds}

    def fits(self, prompt: str) -> bool:
        """Whether a prompt has no more tokens than the text encoder's positions."""
        tokenizer = self.parts.tokenizer
        return len(tokenizer(prompt, truncation=False).input_ids) <= tokenizer.model_max_length

    @torch.no_grad()
    def draw(self, request: DrawRequest) -> Image.Image:
        """Draw one picture; the noise comes from the CPU, so that every device starts from the same."""
        drawn: Any = self.parts(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
        )
        return drawn.images[0]
