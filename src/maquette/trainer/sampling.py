"""Pictures a run draws: class pictures before training, the sample after it."""

from collections.abc import Callable

from msgspec.structs import replace

from maquette.core.drawing import sample_request
from maquette.core.specs import TrainingSpec
from maquette.families.base import Pipeline
from maquette.trainer.data import Example, to_pixels
from maquette.trainer.randomness import derive

MIN_CLASS_PICTURES = 4
MAX_SEED = 2**32


def class_picture_count(spec: TrainingSpec) -> int:
    """How many class pictures preserve what the base knew: as many as there are pictures, at least four.

    So each side of the loss sees its pictures equally often, and preparing them stays short beside training.
    """
    return max(MIN_CLASS_PICTURES, len(spec.pictures)) if spec.settings.with_prior_preservation else 0


def draw_class_pictures(pipeline: Pipeline, spec: TrainingSpec, between: Callable[[], None]) -> list[Example]:
    """Draw what the base itself makes of the class prompt, each picture from its own seed.

    Args:
        between: called before each picture; may raise to end the run.
    """
    examples: list[Example] = []
    for index in range(class_picture_count(spec)):
        between()
        seed = derive(spec.settings.seed, f"class picture {index}") % MAX_SEED
        request = sample_request(replace(spec.sample, prompt=spec.settings.class_prompt, seed=seed))
        picture = pipeline.draw(request)
        examples.append(Example(to_pixels(picture), spec.settings.class_prompt))
    return examples
