"""What never changes from step to step is computed once, and kept for the tenant's next run: latents, and of prompts
what comes from text encoders that don't train.

While a run lasts it lies in host memory: fifty pictures of 1024 pixels are twenty-six megabytes of latents.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from maquette.families.base import (
    TEXT_ENCODERS,
    Bring,
    Conditioning,
    LatentPosterior,
    Noising,
    Objective,
    OriginalSize,
    Part,
    Pipeline,
    as_conditioning,
)
from maquette.families.pixels import to_pixels
from maquette.trainer.captions import NOTHING, choose, shuffled
from maquette.trainer.data import Example
from maquette.trainer.tensor_store import Entry, TensorStore

PROMPTS = "prompts"
"""Owner of what became of prompts."""
WIDTH = 3
"""Dimension of a picture (pictures, channels, height, width) that a mirror turns round."""


@dataclass(frozen=True)
class Shown:
    """Pictures of one size, as they are shown in one step: all that chance decides of it. Lies in host memory.

    Attributes:
        places: of each among the step's rows.
        latents: drawn from what the autoencoder says of each.
        prompts: a wording of each.
        original_sizes: of each, or of its mirror image.
        noising: what is added to each.
    """

    places: Sequence[int]
    latents: torch.Tensor
    prompts: Sequence[str]
    original_sizes: Sequence[OriginalSize]
    noising: Noising

    def split(self, most: int) -> Iterator[Self]:
        """The same in parts of at most so many pictures."""
        for begin in range(0, len(self.places), most):
            part = slice(begin, begin + most)
            yield type(self)(
                places=self.places[part],
                latents=self.latents[part],
                prompts=self.prompts[part],
                original_sizes=self.original_sizes[part],
                noising=Noising(*(drawn[part] for drawn in self.noising)),
            )


class EncodedExamples:
    """Examples as the denoiser sees them, addressed by row."""

    def __init__(
        self,
        pipeline: Pipeline,
        examples: Sequence[Example],
        posteriors: Sequence[LatentPosterior],
        conditionings: Mapping[str, Conditioning],
        *,
        train_text_encoder: bool,
    ) -> None:
        """Take what was encoded.

        Args:
            pipeline: says anew at each step what text encoders that train make of prompts.
            examples: the rows.
            posteriors: of each row the picture, and its mirror image where it is shown, on the CPU.
            conditionings: of each prompt that a row may have, what the bare base makes of it, on the CPU; none where
                all text encoders train.
            train_text_encoder: whether what can be trained of text encoders is.
        """
        self.pipeline = pipeline
        self.examples = examples
        self.posteriors = posteriors
        self.conditionings = conditionings
        self.train_text_encoder = train_text_encoder
        self.all_encoders_train = _all_encoders_train(pipeline, train_text_encoder=train_text_encoder)

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        pipeline: Pipeline,
        examples: Sequence[Example],
        *,
        train_text_encoder: bool,
        before_each: Callable[[], None],
        store: TensorStore,
        bring: Bring,
    ) -> Self:
        """Encode one example after the other, so that memory does not grow with their number.

        All pictures come first and then all prompts, so that a pipeline that has not the memory for both needs to
        change from autoencoder to text encoder but once.

        Args:
            train_text_encoder: whether what can be trained of text encoders will be.
            before_each: called before each example and each prompt; may raise to end the run.
            store: where latents and prompts of earlier runs are; what is missing is added.
            bring: called with the pipeline's parts that are about to be used.
        """
        posteriors: list[LatentPosterior] = []
        for example in examples:
            before_each()
            posteriors.append(_encoded_picture(pipeline, example, store, bring))
        conditionings: dict[str, Conditioning] = {}
        if not _all_encoders_train(pipeline, train_text_encoder=train_text_encoder):
            for prompt in _prompts(examples):
                before_each()
                conditionings[prompt] = _encoded_prompt(pipeline, prompt, store, bring)
        return cls(pipeline, examples, posteriors, conditionings, train_text_encoder=train_text_encoder)

    def show(self, rows: Sequence[int], objective: Objective, random: torch.Generator) -> Iterator[Shown]:
        """Draw what a step shows of its rows: one batch for all of a size, wherever they stand among them."""
        places_by_size: defaultdict[torch.Size, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            places_by_size[self.size(row)].append(place)
        for places in places_by_size.values():
            yield self._show(places, [rows[place] for place in places], objective, random)

    def batch(self, shown: Shown, device: torch.device) -> tuple[torch.Tensor, Conditioning, Noising]:
        """What an objective is given of what is shown."""
        conditioning = self.pipeline.with_original_sizes(self._told(shown.prompts, device), shown.original_sizes)
        return shown.latents.to(device), conditioning, Noising(*(drawn.to(device) for drawn in shown.noising))

    def size(self, row: int) -> torch.Size:
        """Of a row's latents: only equal ones are shown together."""
        return self.posteriors[row].mean.shape[1:]

    def _show(self, places: Sequence[int], rows: Sequence[int], objective: Objective, random: torch.Generator) -> Shown:
        views, original_sizes = zip(*(self._view(row, random) for row in rows), strict=True)
        prompts = [self._wording(row, random) for row in rows]
        posterior = LatentPosterior(
            mean=torch.cat([one.mean for one in views]), std=torch.cat([one.std for one in views])
        )
        latents = posterior.sample(random)
        return Shown(places, latents, prompts, original_sizes, objective.noising(latents, random))

    def _wording(self, row: int, random: torch.Generator) -> str:
        """One that was encoded; where all text encoders read anew at each step, tags in any order."""
        example = self.examples[row]
        wording = choose(example.wordings, example.dropout, random)
        return shuffled(wording, random) if self.all_encoders_train and len(example.wordings) > 1 else wording

    def _told(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        if self.all_encoders_train:
            return self.pipeline.encode_trained(prompts)
        kept = as_conditioning([self.conditionings[prompt] for prompt in prompts])
        told = {name: values.to(device) for name, values in kept.items()}
        return told | self.pipeline.encode_trained(prompts) if self.train_text_encoder else told

    def _view(self, row: int, random: torch.Generator) -> tuple[LatentPosterior, OriginalSize]:
        """The picture, or its mirror image where there is one and chance will have it; and what it was."""
        posterior, original_size = self.posteriors[row], self.examples[row].original_size
        views = len(posterior.mean)
        view = 0 if views == 1 else int(torch.randint(views, (), generator=random))
        chosen = LatentPosterior(mean=posterior.mean[view : view + 1], std=posterior.std[view : view + 1])
        return chosen, original_size.mirrored() if view else original_size


def _all_encoders_train(pipeline: Pipeline, *, train_text_encoder: bool) -> bool:
    """Whether each step reads its prompts anew altogether, so that nothing of them is encoded before."""
    return train_text_encoder and not pipeline.modules[Part.FROZEN_ENCODERS]


def _prompts(examples: Sequence[Example]) -> Iterator[str]:
    """Every prompt that may be asked for, once."""
    said = [wording for example in examples for wording in example.wordings]
    yield from dict.fromkeys([*said, NOTHING] if any(example.dropout for example in examples) else said)


def _encoded_picture(pipeline: Pipeline, example: Example, store: TensorStore, bring: Bring) -> LatentPosterior:
    kept = store.read(example.kept_as)
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
        store.write(example.kept_as, kept)
    return LatentPosterior(mean=kept["mean"], std=kept["std"])


def _encoded_prompt(pipeline: Pipeline, prompt: str, store: TensorStore, bring: Bring) -> Conditioning:
    entry = Entry(PROMPTS, prompt)
    kept = store.read(entry)
    if kept is None:
        bring(*TEXT_ENCODERS)
        kept = {name: values.cpu() for name, values in pipeline.encode_prompts([prompt]).items()}
        store.write(entry, kept)
    return kept
