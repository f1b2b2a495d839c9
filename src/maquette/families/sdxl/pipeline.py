"""A Stable Diffusion XL base on a device: two text encoders, and a UNet that is also told what the picture was."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline

from maquette.core.drawing import DrawRequest
from maquette.core.embeddings import OF_TWO_ENCODERS
from maquette.families.base import Conditioning, OriginalSize
from maquette.families.conditioning import PromptEncoder, Said, layer_before, reads_whole
from maquette.families.denoising import GuidedDenoiser
from maquette.families.latent_pipeline import LatentPipeline
from maquette.families.precision import mixed_precision
from maquette.families.samplers import DiffusionSamplers


class SdxlPipeline(LatentPipeline):
    """Autoencoder, denoiser, both text encoders and noise schedule of one base, frozen (Podell et al. 2023,
    arXiv:2307.01952).

    Its conditioning is `prompt_embeds` (prompts, tokens, width of both encoders together), `pooled_prompt_embeds`
    (prompts, width of the second) and, in training, `originals` (prompts, 4), see `with_original_sizes`.
    """

    LIBRARY = StableDiffusionXLPipeline
    ABSENT: ClassVar = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    def __init__(self, parts: StableDiffusionXLPipeline) -> None:
        super().__init__(parts, parts.unet, DiffusionSamplers(parts.scheduler))
        self.samplers: DiffusionSamplers
        self.unet = parts.unet
        self.text_encoders: tuple[Any, Any] = (parts.text_encoder, parts.text_encoder_2)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, the way drawing does."""
        # The denoiser may be elsewhere.
        device = self.text_encoders[0].device
        with mixed_precision(device):
            embeds, _, pooled, _ = self.parts.encode_prompt(
                list(prompts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def with_original_sizes(self, conditioning: Conditioning, original_sizes: Sequence[OriginalSize]) -> Conditioning:
        """Prompts, and of each one's picture the height and width it had, and what was cut off above and on the left.

        The base has learned to tell small and cropped originals from others (the paper, section 2.2). What it is told
        of them the LoRA need not learn.
        """
        numbers = [[size.height, size.width, size.top, size.left] for size in original_sizes]
        originals = torch.tensor(numbers, dtype=torch.float32, device=conditioning["prompt_embeds"].device)
        return conditioning | {"originals": originals}

    def reads_whole_prompt(self, prompt: str) -> bool:
        """Whether a prompt has no more tokens than either text encoder's positions."""
        return all(reads_whole(tokenizer, prompt) for tokenizer in (self.parts.tokenizer, self.parts.tokenizer_2))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """What the UNet says of latents (pictures, channels, height, width)."""
        told = {"text_embeds": conditioning["pooled_prompt_embeds"], "time_ids": self._time_ids(latents, conditioning)}
        return self.unet(latents, timesteps, conditioning["prompt_embeds"], added_cond_kwargs=told, return_dict=False)[
            0
        ]

    def denoiser_for(self, request: DrawRequest) -> GuidedDenoiser:
        """The UNet with the request's prompts, the negative one where there is guidance."""
        if request.guidance_scale <= 1:
            return GuidedDenoiser(self.predict, self._encoded(request, request.prompt), request.guidance_scale)
        conditioning = self._encoded(request, request.negative_prompt, request.prompt)
        if not request.negative_prompt and self.parts.config.force_zeros_for_empty_prompt:
            for told in conditioning.values():
                told[0] = 0
        return GuidedDenoiser(self.predict, conditioning, request.guidance_scale)

    def _encoded(self, request: DrawRequest, *prompts: str) -> Conditioning:
        first, second = (self._said(request, number, prompts) for number in range(2))
        return {
            "prompt_embeds": torch.cat([first.embeds, second.embeds], dim=-1),
            "pooled_prompt_embeds": second.pooled,
        }

    def _said(self, request: DrawRequest, number: int, prompts: Sequence[str]) -> Said:
        """What one of the text encoders says."""
        encoder = PromptEncoder(
            (self.parts.tokenizer, self.parts.tokenizer_2)[number],
            self.text_encoders[number],
            read=layer_before,
            clip_skip=request.clip_skip,
            embeddings=request.embeddings,
            tensor=OF_TWO_ENCODERS[number],
        )
        with mixed_precision(self.device):
            return encoder.encode(*prompts)

    def _time_ids(self, latents: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """What became of each picture, and its size now; one that is drawn is whole, and always was of this size."""
        scale = self.autoencoder.pixels_per_latent
        size = torch.stack([latents.new_full((len(latents),), side * scale) for side in latents.shape[2:]], dim=1)
        originals = conditioning.get("originals", torch.cat([size, torch.zeros_like(size)], dim=1))
        return torch.cat([originals.to(latents.dtype), size], dim=1)
