"""What a run draws: samples with its LoRA, and class pictures.

These are what the base makes of the class prompt, which keeps it from forgetting (prior preservation, Ruiz et al. 2023,
DreamBooth, arXiv:2208.12242, section 3.3).
"""

from functools import partial

import msgspec
from msgspec.structs import replace
from PIL import Image

from maquette.core.drawing import DrawRequest, sample_request
from maquette.core.errors import InvalidRequest
from maquette.core.lifecycle import Reason
from maquette.core.specs import SampleSpec, TrainingSpec
from maquette.families.base import Bring, NotFinite, OnStep, OriginalSize, Pipeline, Unsupported
from maquette.trainer.data import Example
from maquette.trainer.divergence import ADVICE
from maquette.trainer.failures import RunFailed
from maquette.trainer.randomness import derive
from maquette.trainer.tensor_store import Entry

MIN_CLASS_PICTURES = 4
MAX_SEED = 2**32
CLASSES = "classes"
"""Owner of what became of class pictures."""


def draw_sample(pipeline: Pipeline, sample: SampleSpec, on_step: OnStep, bring: Bring) -> Image.Image:
    """A picture with the LoRA as it stands.

    Args:
        on_step: called after each denoising step; what it raises ends the drawing.
        bring: called with the part that drawing needs next.

    Raises:
        RunFailed: what came out is no picture, so the LoRA has diverged; or the base does not do what the sample asks.
        BrokenBase: a part of the base can't be used.
    """
    try:
        return _draw(pipeline, sample_request(sample), on_step, bring)
    except NotFinite as error:
        raise RunFailed(Reason.DIVERGED, f"drawing with the LoRA, {error}; {ADVICE}") from error


def class_picture_count(spec: TrainingSpec) -> int:
    """How many class pictures preserve what the base knew: as many as are trained on, at least four.

    So each side of the loss sees its pictures equally often, and preparing them stays short beside training.
    """
    return max(MIN_CLASS_PICTURES, len(spec.learned)) if spec.settings.with_prior_preservation else 0


def class_examples(pipeline: Pipeline, spec: TrainingSpec, on_step: OnStep, bring: Bring) -> list[Example]:
    """The class pictures of a run; each is drawn when its latents are asked for and not kept from an earlier one.

    Their seeds don't depend on the run's: all of a tenant's runs with this base, prompt and size share them.

    Args:
        on_step: called after each denoising step; what it raises ends the drawing, and nothing of that picture is kept.
        bring: called with the part that drawing needs next.
    """
    return [_example(pipeline, spec, index, on_step, bring) for index in range(class_picture_count(spec))]


def _example(pipeline: Pipeline, spec: TrainingSpec, index: int, on_step: OnStep, bring: Bring) -> Example:
    prompt = spec.settings.class_prompt
    seed = derive(0, f"class picture {index}") % MAX_SEED
    request = sample_request(replace(spec.sample, prompt=prompt, seed=seed))
    return Example(
        picture=partial(_draw_class_picture, pipeline, request, on_step, bring),
        wordings=(prompt,),
        original_size=OriginalSize(request.width, request.height),
        kept_as=Entry(CLASSES, msgspec.json.encode(request).decode()),
    )


def _draw_class_picture(pipeline: Pipeline, request: DrawRequest, on_step: OnStep, bring: Bring) -> Image.Image:
    """No LoRA is attached yet, so what is wrong with the picture is wrong with the base."""
    try:
        return _draw(pipeline, request, on_step, bring)
    except NotFinite as error:
        raise InvalidRequest(
            "expert_setting.with_prior_preservation",
            f"drawing a class picture with the base, {error}; leave it out, or train on another base",
        ) from error


def _draw(pipeline: Pipeline, request: DrawRequest, on_step: OnStep, bring: Bring) -> Image.Image:
    try:
        return pipeline.draw(request, on_step, bring)
    except Unsupported as error:
        raise RunFailed(Reason.UNSUPPORTED, f"the sample can't be drawn: {error}") from error
