"""Class pictures are the base's own and the tenant's, not one run's; and whose fault it is if one can't be drawn."""

from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

from maquette.core.drawing import DrawRequest
from maquette.core.lifecycle import Reason
from maquette.core.specs import TrainingSpec
from maquette.families.base import Bring, NotFinite, OnStep, Unsupported, all_there
from maquette.testing.factories import training_spec
from maquette.trainer.failures import failed
from maquette.trainer.sampling import CLASSES, class_examples, draw_sample

pytestmark = pytest.mark.torch


class Drawing:
    """Takes note of what it is asked to draw."""

    def __init__(self) -> None:
        self.asked: list[DrawRequest] = []
        self.brings: list[Bring] = []

    def draw(self, request: DrawRequest, on_step: OnStep | None, bring: Bring) -> Image.Image:
        self.asked.append(request)
        self.brings.append(bring)
        return Image.new("RGB", (request.width, request.height))


def spec(pictures: int = 1, **settings: Any) -> TrainingSpec:
    asked = training_spec(pictures=pictures)
    return replace(asked, settings=replace(asked.settings, **({"with_prior_preservation": True} | settings)))


def go_on(_step: int, _steps: int) -> None:
    """Nobody asks to stop."""


def names(spec: TrainingSpec) -> list[str]:
    return [example.kept_as.name for example in class_examples(Drawing(), spec, go_on, all_there)]  # pyright: ignore[reportArgumentType]


def test_there_are_none_without_prior_preservation() -> None:
    assert names(spec(with_prior_preservation=False)) == []


@pytest.mark.parametrize(("pictures", "drawn"), [(1, 4), (4, 4), (9, 9)])
def test_there_are_as_many_as_pictures_and_at_least_four(pictures: int, drawn: int) -> None:
    assert len(set(names(spec(pictures)))) == drawn


def test_each_is_drawn_only_when_it_is_asked_for() -> None:
    drawing = Drawing()
    examples = class_examples(drawing, spec(class_prompt="a dog"), go_on, all_there)  # pyright: ignore[reportArgumentType]
    first = examples[0]
    assert drawing.asked == []
    assert first.picture().size == (128, 128)
    assert drawing.brings == [all_there]
    assert [(request.prompt, request.width) for request in drawing.asked] == [("a dog", 128)]
    assert (first.wordings, first.dropout, first.mirrored, first.kept_as.owner) == (("a dog",), 0.0, False, CLASSES)


def test_runs_share_them_whatever_else_they_differ_in() -> None:
    """More pictures need more of them, and have those of the smaller run among theirs."""
    assert names(spec(seed=2, lora_r=8, instance_prompt="x")) == names(spec(seed=1))
    assert names(spec(9))[:4] == names(spec(1))


def test_another_prompt_or_size_has_its_own() -> None:
    other = spec()
    wider = replace(other, sample=replace(other.sample, width=256))
    assert not {*names(spec(class_prompt="a dog")), *names(wider)} & {*names(spec())}


class Failing:
    """A pipeline that draws nothing."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def draw(self, *_: object) -> Image.Image:
        raise self.error


@pytest.mark.parametrize(
    ("error", "bare", "with_lora"),
    [
        (NotFinite("the latents are not finite"), Reason.UNSUPPORTED, Reason.DIVERGED),
        (Unsupported("sampler: this base draws with 'Euler' alone"), Reason.UNSUPPORTED, Reason.UNSUPPORTED),
    ],
)
def test_a_picture_that_can_not_be_drawn_is_the_bases_fault_or_the_loras(
    error: Exception, bare: Reason, with_lora: Reason
) -> None:
    asked, failing = spec(), Failing(error)
    with pytest.raises(Exception, match=str(error)) as of_base:
        class_examples(failing, asked, go_on, all_there)[0].picture()  # pyright: ignore[reportArgumentType]
    with pytest.raises(Exception, match=str(error)) as of_lora:
        draw_sample(failing, asked.sample, go_on, all_there)  # pyright: ignore[reportArgumentType]
    assert (failed(of_base.value).reason, failed(of_lora.value).reason) == (bare, with_lora)
