"""What never changes from step to step is computed once: latents, and prompts unless the text encoder trains.

It is kept in memory: fifty pictures of 1024 pixels are thirteen megabytes of latents.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch

from maquette.families.base import Conditioning, LatentPosterior, Pipeline, as_conditioning
from maquette.trainer.data import Example, prompts


class EncodedExamples:
    """Examples as the denoiser sees them, addressed by row."""

    def __init__(
        self, pipeline: Pipeline, posterior: LatentPosterior, prompts: list[str], conditioning: Conditioning | None
    ) -> None:
        self.pipeline = pipeline
        self.posterior = posterior
        self.prompts = prompts
        self.conditioning = conditioning

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        pipeline: Pipeline,
        examples: Sequence[Example],
        *,
        train_text_encoder: bool,
        between: Callable[[], None],
    ) -> Self:
        """Encode one example after the other, so that memory does not grow with their number.

        Args:
            train_text_encoder: prompts are then encoded anew at each step.
            between: called before each example; may raise to end the run.
        """
        posteriors: list[LatentPosterior] = []
        for example in examples:
            between()
            posteriors.append(pipeline.encode_pictures(example.pixels.unsqueeze(0)))
        posterior = LatentPosterior(
            mean=torch.cat([one.mean for one in posteriors]), std=torch.cat([one.std for one in posteriors])
        )
        words = prompts(examples)
        if train_text_encoder:
            return cls(pipeline, posterior, words, None)
        encoded = {prompt: pipeline.encode_prompts([prompt]) for prompt in dict.fromkeys(words)}
        return cls(pipeline, posterior, words, as_conditioning([encoded[prompt] for prompt in words]))

    def batch(self, rows: Sequence[int], random: torch.Generator) -> tuple[torch.Tensor, Conditioning]:
        """Latents, drawn anew from what the autoencoder says of each picture, and what the denoiser is told."""
        latents = self.posterior.sample(rows, random)
        if self.conditioning is None:
            return latents, self.pipeline.encode_prompts([self.prompts[row] for row in rows])
        return latents, {name: values[list(rows)] for name, values in self.conditioning.items()}
