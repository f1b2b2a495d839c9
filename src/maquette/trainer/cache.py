"""What never changes from step to step is computed once, and kept for the tenant's next run: latents, and prompts
unless the text encoder trains.

While a run lasts it lies in host memory: fifty pictures of 1024 pixels are twenty-six megabytes of latents.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Self

import torch

from maquette.families.base import Conditioning, Frame, LatentPosterior, Part, Pipeline, as_conditioning
from maquette.trainer.captions import NOTHING, choose
from maquette.trainer.data import Example, to_pixels
from maquette.trainer.tensor_store import TensorStore

PROMPTS = "prompts"
"""Owner of what became of prompts."""
WIDTH = 3
"""Dimension of a picture (pictures, channels, height, width) that a mirror turns round."""


class EncodedExamples:
    """Examples as the denoiser sees them, addressed by row."""

    def __init__(
        self,
        pipeline: Pipeline,
        examples: Sequence[Example],
        posteriors: Sequence[LatentPosterior],
        conditionings: Mapping[str, Conditioning] | None,
    ) -> None:
        """Take what was encoded.

        Args:
            pipeline: encodes prompts where `conditionings` is None.
            examples: the rows.
            posteriors: of each row the picture, and its mirror image where it is shown, on the CPU.
            conditionings: of each prompt that a row may have, on the CPU.
        """
        self.pipeline = pipeline
        self.examples = examples
        self.posteriors = posteriors
        self.conditionings = conditionings

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        pipeline: Pipeline,
        examples: Sequence[Example],
        *,
        train_text_encoder: bool,
        between: Callable[[], None],
        store: TensorStore | None = None,
        bring: Callable[..., None] = lambda *_: None,
    ) -> Self:
        """Encode one example after the other, so that memory does not grow with their number.

        All pictures come first and then all prompts, so that a pipeline that has not the memory for both needs to
        change from autoencoder to text encoder but once.

        Args:
            train_text_encoder: prompts are then encoded anew at each step.
            between: called before each example; may raise to end the run.
            store: where latents and prompts of earlier runs are; what is missing is added.
            bring: called with the pipeline's part that is about to be used, see `Residency.bring`.
        """
        posteriors: list[LatentPosterior] = []
        for example in examples:
            between()
            posteriors.append(_encoded_picture(pipeline, example, store, bring))
        if train_text_encoder:
            return cls(pipeline, examples, posteriors, None)
        conditionings: dict[str, Conditioning] = {}
        for prompt in _prompts(examples):
            between()
            conditionings[prompt] = _encoded_prompt(pipeline, prompt, store, bring)
        return cls(pipeline, examples, posteriors, conditionings)

    def batches(
        self, rows: Sequence[int], random: torch.Generator, device: torch.device
    ) -> Iterator[tuple[torch.Tensor, Conditioning]]:
        """Latents, drawn anew from what the autoencoder says of each picture, and what the denoiser is told.

        One batch where all rows' pictures have one size; else one for each run of rows that have, in the rows' order.
        """
        for _, group in groupby(rows, key=lambda row: self.posteriors[row].mean.shape[1:]):
            yield self._batch(list(group), random, device)

    def _batch(
        self, rows: Sequence[int], random: torch.Generator, device: torch.device
    ) -> tuple[torch.Tensor, Conditioning]:
        shown, frames = zip(*(self._shown(row, random) for row in rows), strict=True)
        said = [choose(self.examples[row].wordings, self.examples[row].dropout, random) for row in rows]
        posterior = LatentPosterior(
            mean=torch.cat([one.mean for one in shown]), std=torch.cat([one.std for one in shown])
        )
        latents = posterior.sample(list(range(len(rows))), random).to(device)
        return latents, self.pipeline.framed(self._told(said, device), frames)

    def _told(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        if self.conditionings is None:
            return self.pipeline.encode_prompts(prompts)
        kept = as_conditioning([self.conditionings[prompt] for prompt in prompts])
        return {name: values.to(device) for name, values in kept.items()}

    def _shown(self, row: int, random: torch.Generator) -> tuple[LatentPosterior, Frame]:
        """The picture, or its mirror image where there is one and chance will have it; and what it was."""
        posterior, frame = self.posteriors[row], self.examples[row].frame
        views = len(posterior.mean)
        view = 0 if views == 1 else int(torch.randint(views, (), generator=random))
        chosen = LatentPosterior(mean=posterior.mean[view : view + 1], std=posterior.std[view : view + 1])
        return chosen, frame.mirrored() if view else frame


def _prompts(examples: Sequence[Example]) -> Iterator[str]:
    """Every prompt that may be asked for, once."""
    said = [wording for example in examples for wording in example.wordings]
    yield from dict.fromkeys([*said, NOTHING] if any(example.dropout for example in examples) else said)


def _encoded_picture(
    pipeline: Pipeline, example: Example, store: TensorStore | None, bring: Callable[..., None]
) -> LatentPosterior:
    kept = store.read(example.owner, example.name) if store and example.owner else None
    if kept is None:
        pixels = to_pixels(example.picture())[None]
        bring(Part.AUTOENCODER)
        views = [pixels, pixels.flip(WIDTH)] if example.mirrored else [pixels]
        # One at a time: a batch's sums need not come out to the bit as they do alone.
        posteriors = [pipeline.encode_pictures(view) for view in views]
        kept = {
            "mean": torch.cat([one.mean for one in posteriors]).cpu(),
            "std": torch.cat([one.std for one in posteriors]).cpu(),
        }
        if store and example.owner:
            store.write(example.owner, example.name, kept, example.notes)
    return LatentPosterior(mean=kept["mean"], std=kept["std"])


def _encoded_prompt(
    pipeline: Pipeline, prompt: str, store: TensorStore | None, bring: Callable[..., None]
) -> Conditioning:
    kept = store.read(PROMPTS, prompt) if store else None
    if kept is None:
        bring(Part.TEXT_ENCODERS)
        kept = {name: values.cpu() for name, values in pipeline.encode_prompts([prompt]).items()}
        if store:
            store.write(PROMPTS, prompt, kept)
    return kept
