"""Class pictures are the base's own and the tenant's, not one run's."""

from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

from maquette.core.drawing import DrawRequest
from maquette.core.specs import TrainingSpec
from maquette.families.base import Bring, all_there
from maquette.testing.factories import training_spec
from maquette.trainer.sampling import CLASSES, class_examples

pytestmark = pytest.mark.torch


class Drawing:
    """Takes note of what it is asked to draw."""

    def __init__(self) -> None:
        self.asked: list[DrawRequest] = []
        self.brings: list[Bring] = []

    def draw(self, request: DrawRequest, *, bring: Bring) -> Image.Image:
        self.asked.append(request)
        self.brings.append(bring)
        return Image.new("RGB", (request.width, request.height))


def spec(pictures: int = 1, **settings: Any) -> TrainingSpec:
    asked = training_spec(pictures=pictures)
    return replace(asked, settings=replace(asked.settings, **({"with_prior_preservation": True} | settings)))


def names(spec: TrainingSpec) -> list[str]:
    return [example.name for example in class_examples(Drawing(), spec, all_there)]  # pyright: ignore[reportArgumentType]


def test_there_are_none_without_prior_preservation() -> None:
    assert names(spec(with_prior_preservation=False)) == []


@pytest.mark.parametrize(("pictures", "drawn"), [(1, 4), (4, 4), (9, 9)])
def test_there_are_as_many_as_pictures_and_at_least_four(pictures: int, drawn: int) -> None:
    assert len(set(names(spec(pictures)))) == drawn


def test_each_is_drawn_only_when_it_is_asked_for() -> None:
    drawing = Drawing()
    examples = class_examples(drawing, spec(class_prompt="a dog"), all_there)  # pyright: ignore[reportArgumentType]
    first = examples[0]
    assert drawing.asked == []
    assert first.picture().size == (128, 128)
    assert drawing.brings == [all_there]
    assert [(request.prompt, request.width) for request in drawing.asked] == [("a dog", 128)]
    assert (first.wordings, first.dropout, first.mirrored, first.owner) == (("a dog",), 0.0, False, CLASSES)


def test_runs_share_them_whatever_else_they_differ_in() -> None:
    """More pictures need more of them, and have those of the smaller run among theirs."""
    assert names(spec(seed=2, lora_r=8, instance_prompt="x")) == names(spec(seed=1))
    assert names(spec(9))[:4] == names(spec(1))


def test_another_prompt_or_size_has_its_own() -> None:
    other = spec()
    wider = replace(other, sample=replace(other.sample, width=256))
    assert not {*names(spec(class_prompt="a dog")), *names(wider)} & {*names(spec())}
