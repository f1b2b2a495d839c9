"""A FLUX.1 base on a device: a transformer that reads latents and words as one row of tokens."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import FluxPipeline

from maquette.core.drawing import DrawRequest
from maquette.families.base import Conditioning, Unsupported
from maquette.families.conditioning import reads_whole
from maquette.families.denoising import GuidedDenoiser
from maquette.families.flow import FlowSamplers
from maquette.families.latent_pipeline import LatentPipeline
from maquette.families.precision import mixed_precision

MAX_TOKENS = 512
"""Of a prompt that T5 reads."""
UNGUIDED = 1.0
"""What the transformer is told where nothing is to be guided: in training, and beside classifier-free guidance."""


class Flux1Pipeline(LatentPipeline):
    """Autoencoder, denoiser, both text encoders and noise levels of one base, frozen.

    Its conditioning is `prompt_embeds` (prompts, tokens, width) of T5 (Raffel et al. 2020, arXiv:1910.10683),
    `pooled_prompt_embeds` (prompts, width) of CLIP and, to draw, `guidance` (prompts).
    """

    LIBRARY = FluxPipeline
    ABSENT: ClassVar = {"feature_extractor": None, "image_encoder": None}
    FROZEN_ENCODERS = ("text_encoder_2",)
    PATCH = 2

    def __init__(self, parts: FluxPipeline) -> None:
        super().__init__(parts, parts.transformer, FlowSamplers(parts.scheduler, self.PATCH))
        self.samplers: FlowSamplers
        self.transformer = parts.transformer
        self.text_encoder = parts.text_encoder

    @property
    def latent_channels(self) -> int:
        """Of the latents before they are packed."""
        return self.transformer.config.in_channels // self.PATCH**2

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, the way drawing does."""
        # The denoiser may be elsewhere.
        device = self.text_encoder.device
        with mixed_precision(device):
            embeds, pooled, _ = self.parts.encode_prompt(
                list(prompts), None, device, num_images_per_prompt=1, max_sequence_length=MAX_TOKENS
            )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def encode_trained(self, prompts: Sequence[str]) -> Conditioning:
        """What CLIP says. T5, forty times as large, has no LoRA, and need not read the prompts again."""
        device = self.text_encoder.device
        with mixed_precision(device):
            pooled = self.parts._get_clip_prompt_embeds(list(prompts), device=device)
        return {"pooled_prompt_embeds": pooled}

    def reads_whole_prompt(self, prompt: str) -> bool:
        """Whether T5 reads the whole prompt; CLIP, which reads less, is asked only for what all is about."""
        return reads_whole(self.parts.tokenizer_2, prompt, MAX_TOKENS)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The velocity that the transformer sees in latents (pictures, channels, height, width)."""
        count, _, height, width = latents.shape
        embeds = conditioning["prompt_embeds"]
        said = self.transformer(
            hidden_states=packed(latents),
            timestep=timesteps.expand(count) / self.samplers.timesteps,
            guidance=self._guidance(latents, conditioning),
            pooled_projections=conditioning["pooled_prompt_embeds"],
            encoder_hidden_states=embeds,
            txt_ids=latents.new_zeros(embeds.shape[1], 3),
            img_ids=places(height, width, latents.device).to(latents.dtype),
            return_dict=False,
        )[0]
        return unpacked(said, height, width)

    def denoiser_for(self, request: DrawRequest) -> GuidedDenoiser:
        """The transformer with the request's prompt and guidance.

        A base that was distilled to be told its guidance needs no second answer. Where a negative prompt is given, it
        is classifier-free guidance all the same.
        """
        if request.clip_skip != 1:
            raise Unsupported(f"clip_skip {request.clip_skip}: this base reads T5's last layer; it must be 1")
        if request.embeddings:
            raise Unsupported("embeddings: this base has no use for textual inversions; leave them out")
        guided = bool(request.negative_prompt) and request.guidance_scale > 1
        prompts = (request.negative_prompt, request.prompt) if guided else (request.prompt,)
        conditioning = self.encode_prompts(prompts)
        told = UNGUIDED if guided else request.guidance_scale
        conditioning["guidance"] = torch.full((len(prompts),), told, device=self.device)
        return GuidedDenoiser(self.predict, conditioning, request.guidance_scale if guided else UNGUIDED)

    def _guidance(self, latents: torch.Tensor, conditioning: Conditioning) -> torch.Tensor | None:
        if not self.transformer.config.guidance_embeds:
            return None
        return conditioning.get("guidance", latents.new_full(latents.shape[:1], UNGUIDED))


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Latents (pictures, channels, height, width) as tokens of 2 x 2 (pictures, height * width / 4, channels * 4)."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(count, height * width // 4, channels * 4)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The latents of `packed`."""
    count, _, numbers = tokens.shape
    patches = tokens.reshape(count, height // 2, width // 2, numbers // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(count, numbers // 4, height, width)


def places(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Where each token is, for its rotary embedding (Su et al. 2021, arXiv:2104.09864): (tokens, 3), the first 0."""
    sides = (torch.arange(side // 2, device=device) for side in (height, width))
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
