"""A Stable Diffusion base on a device: one text encoder, and a UNet that attends to what it says."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import StableDiffusionPipeline

from maquette.core.drawing import DrawRequest
from maquette.families.base import Conditioning
from maquette.families.conditioning import PromptEncoder, last_layer, reads_whole
from maquette.families.denoising import GuidedDenoiser
from maquette.families.latent_pipeline import LatentPipeline
from maquette.families.precision import mixed_precision
from maquette.families.samplers import DiffusionSamplers


class Sd15Pipeline(LatentPipeline):
    """Autoencoder, denoiser, text encoder and noise schedule of one base, frozen."""

    LIBRARY = StableDiffusionPipeline
    ABSENT: ClassVar = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }

    def __init__(self, parts: StableDiffusionPipeline) -> None:
        super().__init__(parts, parts.unet, DiffusionSamplers(parts.scheduler))
        self.samplers: DiffusionSamplers
        self.unet = parts.unet
        self.text_encoder = parts.text_encoder

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts to `prompt_embeds` (prompts, tokens, width), the way drawing does."""
        # The denoiser may be elsewhere.
        device = self.text_encoder.device
        with mixed_precision(device):
            embeds, _ = self.parts.encode_prompt(
                list(prompts), device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return {"prompt_embeds": embeds}

    def reads_whole_prompt(self, prompt: str) -> bool:
        """Whether a prompt has no more tokens than the text encoder's positions."""
        return reads_whole(self.parts.tokenizer, prompt)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """What the UNet says of latents (pictures, channels, height, width)."""
        return self.unet(latents, timesteps, conditioning["prompt_embeds"], return_dict=False)[0]

    def denoiser_for(self, request: DrawRequest) -> GuidedDenoiser:
        """The UNet with the request's prompts, the negative one where there is guidance."""
        encoder = PromptEncoder(
            self.parts.tokenizer,
            self.text_encoder,
            read=last_layer,
            clip_skip=request.clip_skip,
            embeddings=request.embeddings,
        )
        guided = request.guidance_scale > 1
        prompts = (request.negative_prompt, request.prompt) if guided else (request.prompt,)
        with mixed_precision(self.device):
            embeds = encoder.encode(*prompts).embeds
        return GuidedDenoiser(self.predict, {"prompt_embeds": embeds}, request.guidance_scale)
