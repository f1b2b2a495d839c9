"""Class pictures: what the base makes of the class prompt, which keeps it from forgetting (prior preservation).

Ruiz et al. 2023, DreamBooth, arXiv:2208.12242, section 3.3.
"""

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace
from PIL import Image

from maquette.core.drawing import DrawRequest, sample_request
from maquette.core.specs import TrainingSpec
from maquette.families.base import Frame, Part, Pipeline
from maquette.trainer.data import Example
from maquette.trainer.randomness import derive

MIN_CLASS_PICTURES = 4
MAX_SEED = 2**32
CLASSES = "classes"
"""Owner of what became of class pictures."""


def class_picture_count(spec: TrainingSpec) -> int:
    """How many class pictures preserve what the base knew: as many as are trained on, at least four.

    So each side of the loss sees its pictures equally often, and preparing them stays short beside training.
    """
    return max(MIN_CLASS_PICTURES, len(spec.learned)) if spec.settings.with_prior_preservation else 0


def class_examples(pipeline: Pipeline, spec: TrainingSpec, bring: Callable[..., None]) -> list[Example]:
    """The class pictures of a run; each is drawn when its latents are asked for and not kept from an earlier one.

    Their seeds don't depend on the run's: all of a tenant's runs with this base, prompt and size share them.

    Args:
        bring: called with the parts that drawing needs, before each; see `Residency.bring`.
    """
    return [_example(pipeline, spec, index, bring) for index in range(class_picture_count(spec))]


def _example(pipeline: Pipeline, spec: TrainingSpec, index: int, bring: Callable[..., None]) -> Example:
    prompt = spec.settings.class_prompt
    seed = derive(0, f"class picture {index}") % MAX_SEED
    request = sample_request(replace(spec.sample, prompt=prompt, seed=seed))
    return Example(
        picture=partial(_draw, pipeline, request, bring),
        wordings=(prompt,),
        frame=Frame(request.width, request.height),
        owner=CLASSES,
        name=msgspec.json.encode(request).decode(),
    )


def _draw(pipeline: Pipeline, request: DrawRequest, bring: Callable[..., None]) -> Image.Image:
    bring(*Part)
    return pipeline.draw(request)
