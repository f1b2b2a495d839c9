"""What a request for a training says in words becomes what its pictures are called."""

from collections.abc import Iterable
from typing import Any

import pytest

from maquette.core.captions import class_noun, with_phrase
from maquette.core.specs import (
    MAX_CAPTION,
    Background,
    BaseRef,
    Component,
    ComponentArg,
    DatasetItem,
    ExpertSetting,
    FaceCropRegion,
    FaceRestore,
    FamilyDefaults,
    Picture,
    Preparation,
    Resize,
    TaskType,
    TrainingRequest,
    TrainingSpec,
    component,
    resolve,
)


def resolved(
    task_type: TaskType = TaskType.SUBJECT,
    captions: tuple[str | None, ...] = (None,),
    components: Iterable[Component] = (),
    **setting: Any,
) -> TrainingSpec:
    request = TrainingRequest(
        name="a",
        base_model="b",
        width=512,
        height=512,
        image_dataset_items=[DatasetItem("0" * 32)],
        expert_setting=ExpertSetting(**setting),
        components=list(components),
    )
    return resolve(
        request,
        task_type=task_type,
        base=BaseRef("b", "sd15", "0" * 64),
        pictures=[Picture("0.png", "0" * 64, caption) for caption in captions],
        defaults=FamilyDefaults(),
        draw_seed=lambda: 1,
    )


@pytest.mark.parametrize(
    ("prompt", "noun"),
    [
        ("person", "person"),
        ("a photo of a dog", "dog"),
        ("photo of the old man", "old man"),
        ("An image of an apple", "apple"),
        ("a dog", "dog"),
        ("anchor", "anchor"),
        ("photography", "photography"),
    ],
)
def test_the_noun_of_a_class_prompt(prompt: str, noun: str) -> None:
    assert class_noun(prompt) == noun


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("on a sofa", "ohwx dog, on a sofa"),
        ("an OHWX dog on a sofa", "an OHWX dog on a sofa"),
        ("an ohwxs dog", "ohwx dog, an ohwxs dog"),
        ("ohwx, sofa", "ohwx, sofa"),
    ],
)
def test_a_caption_says_the_trigger_word(caption: str, said: str) -> None:
    assert with_phrase(caption, "ohwx", "ohwx dog") == said


def test_without_a_trigger_word_captions_stay_as_they_are() -> None:
    spec = resolved(captions=("on a sofa", None))
    assert [picture.caption for picture in spec.pictures] == ["on a sofa", None]
    assert spec.settings.instance_prompt == "a photo of ohwx person"
    assert resolved(instance_prompt="a cat").settings.instance_prompt == "a cat"


def test_a_trigger_word_goes_into_every_caption_and_prompt() -> None:
    spec = resolved(captions=("on a sofa", "sks dog asleep", None), trigger_word="sks", class_prompt="a photo of a dog")
    assert [picture.caption for picture in spec.pictures] == ["sks dog, on a sofa", "sks dog asleep", None]
    assert spec.settings.instance_prompt == spec.sample.prompt == "a photo of sks dog"
    asked = resolved(trigger_word="sks", instance_prompt="a dog", class_prompt="dog")
    assert asked.settings.instance_prompt == "sks dog, a dog"


def test_a_styles_trigger_word_needs_no_class() -> None:
    spec = resolved(TaskType.STYLE, captions=("a house", None), trigger_word="mosaix", class_prompt="a drawing")
    assert [picture.caption for picture in spec.pictures] == ["mosaix style, a house", None]
    assert spec.settings.instance_prompt == "a picture in mosaix style"


def test_prompts_stay_within_their_limit() -> None:
    assert len(resolved(class_prompt="x" * MAX_CAPTION).settings.instance_prompt) == MAX_CAPTION
    assert len(resolved(trigger_word="sks", instance_prompt="x" * MAX_CAPTION).settings.instance_prompt) == MAX_CAPTION


def test_subjects_are_not_mirrored_unless_asked_for() -> None:
    assert not resolved(TaskType.SUBJECT).settings.random_flip
    assert resolved(TaskType.STYLE).settings.random_flip
    assert resolved(TaskType.SUBJECT, random_flip=True).settings.random_flip
    assert not resolved(TaskType.STYLE, random_flip=False).settings.random_flip


def test_components_become_the_preparation() -> None:
    asked = (
        Component("face_crop_region", [ComponentArg("ratio", "1.4")]),
        Component("resize", [ComponentArg("height", "700"), ComponentArg("buckets", "true")]),
        Component("face_restore", [ComponentArg("upscale", "2")]),
        Component("background", [ComponentArg("color", "#00ff7f")]),
    )
    assert resolved(components=asked).preparation == Preparation(
        width=512,
        height=640,
        face_crop_ratio=1.4,
        face_restore="gfpgan_1.4",
        face_restore_upscale=2.0,
        buckets=True,
        background="#00ff7f",
    )
    typed = (FaceCropRegion(1.4), Resize(height=700, buckets=True), FaceRestore(upscale=2.0), Background("#00ff7f"))
    assert resolved(components=map(component, typed)) == resolved(components=asked)
    assert resolved().preparation == Preparation(width=512, height=512)
