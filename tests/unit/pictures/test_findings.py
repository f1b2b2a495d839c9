from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from PIL import Image

from maquette.core.decoding import UnreadablePicture
from maquette.core.findings import SEVERITIES, FindingCode, Severity
from maquette.core.specs import Picture, Preparation, TaskType, TrainingSpec
from maquette.pictures.crops import Box, Size
from maquette.pictures.findings import find_out, unreadable
from maquette.pictures.measures import thumbnail
from maquette.pictures.preparation import PictureFacts
from maquette.testing.factories import training_spec

FACE = Box(10, 10, 20, 20)


def facts(number: int = 0, **changes: object) -> PictureFacts:
    """Of a picture that nothing is to be said of, unlike those of other numbers."""
    good = PictureFacts(
        picture=Size(512, 512),
        faces=(),
        crop=Box(0, 0, 512, 512),
        size=Size(512, 512),
        sharpness=5.0,
        thumbnail=thumbnail(Image.linear_gradient("L").rotate(90 * number).convert("RGB")),
    )
    return replace(good, **changes)


def codes(
    seen: Sequence[PictureFacts],
    task_type: TaskType = TaskType.SUBJECT,
    *,
    restored: bool = False,
    **preparation: object,
) -> list[tuple[FindingCode, str | None]]:
    spec = replace(
        training_spec(task_type),
        pictures=tuple(Picture(f"{index}.png", "0" * 64) for index in range(len(seen))),
        preparation=replace(Preparation(width=512, height=512), **preparation),
    )
    named = {f"{index}.png": one for index, one in enumerate(seen)}
    return [(found.code, found.picture) for found in find_out(spec, named, restored=restored)]


def test_of_good_pictures_nothing_is_said() -> None:
    assert codes([facts(0), facts(1), facts(2, faces=(FACE,))]) == []
    assert codes([facts(0, sharpness=None)]) == []
    assert codes([facts(0, faces=(FACE,))], face_crop_ratio=1.4, face_restore="x", restored=True) == []


def test_a_picture_that_is_enlarged_is_too_small() -> None:
    assert codes([facts(0, crop=Box(100, 100, 356, 356)), facts(1)]) == [(FindingCode.TOO_SMALL, "0.png")]


def test_one_that_is_blurred_too_is_told_both() -> None:
    small = facts(0, crop=Box(100, 100, 356, 356), sharpness=1.2)
    assert codes([small, facts(1)]) == [(FindingCode.TOO_SMALL, "0.png"), (FindingCode.BLURRED, "0.png")]


def test_a_blurred_picture_is_told() -> None:
    assert codes([facts(0), facts(1, sharpness=1.9)]) == [(FindingCode.BLURRED, "1.png")]


def test_every_repetition_is_told_once() -> None:
    assert codes([facts(0), facts(1), facts(0), facts(0)]) == [
        (FindingCode.NEAR_DUPLICATE, "2.png"),
        (FindingCode.NEAR_DUPLICATE, "3.png"),
    ]


@pytest.mark.parametrize(
    ("held_out", "told"),
    [
        ((False, False), {"1.png": "leave one out"}),
        ((False, True), {"1.png": "hold out another"}),
        ((True, False), {"0.png": "hold out another"}),
        ((True, True), {}),
    ],
)
def test_a_picture_held_out_that_repeats_a_trained_one_measures_nothing_new(
    held_out: tuple[bool, ...], told: dict[str, str]
) -> None:
    pictures = tuple(Picture(f"{index}.png", "0" * 64, held_out=held) for index, held in enumerate(held_out))
    spec = replace(training_spec(), pictures=pictures)
    found = find_out(spec, {picture.name: facts(0) for picture in pictures}, restored=False)
    assert [(one.code, one.picture) for one in found] == [(FindingCode.NEAR_DUPLICATE, name) for name in told]
    assert all(told[str(one.picture)] in one.message for one in found)


def test_faces_that_should_be_cropped_around_are_told() -> None:
    seen = [facts(0), facts(1, faces=(FACE, FACE)), facts(2, faces=(FACE,))]
    assert codes(seen, face_crop_ratio=1.4) == [(FindingCode.NO_FACE, "0.png"), (FindingCode.SEVERAL_FACES, "1.png")]


def test_several_faces_matter_to_subjects_alone() -> None:
    seen = [facts(0, faces=(FACE, FACE))]
    assert codes(seen, TaskType.SUBJECT) == [(FindingCode.SEVERAL_FACES, "0.png")]
    assert codes(seen, TaskType.STYLE) == []


def test_what_nobody_here_can_do_is_told_once() -> None:
    unsearched = [facts(0, faces=None), facts(1, faces=None)]
    assert codes(unsearched) == []
    assert codes(unsearched, face_crop_ratio=1.4) == [(FindingCode.FACES_NOT_SEARCHED, None)]
    assert codes([facts(0)], face_restore="gfpgan_1.4") == [(FindingCode.FACES_NOT_RESTORED, None)]


def test_a_picture_without_facts_is_passed_over() -> None:
    spec: TrainingSpec = training_spec(pictures=2)
    assert find_out(spec, {spec.pictures[1].name: facts(0)}, restored=False) == []


def test_words_name_the_limit_and_the_fix() -> None:
    spec = training_spec(pictures=1)
    name = spec.pictures[0].name
    (small,) = find_out(spec, {name: facts(0, crop=Box(0, 0, 100, 100))}, restored=False)
    assert "has 100x100 pixels and is enlarged to 512x512; send a larger picture" in small.message
    assert small.severity is Severity.WARNING
    broken = unreadable("0.png", UnreadablePicture("the picture can't be read: cut off"))
    assert broken.severity is Severity.ERROR
    assert broken.message == "the picture can't be read: cut off; send it again, or leave it out"


@pytest.mark.parametrize("code", FindingCode)
def test_every_code_has_a_severity(code: FindingCode) -> None:
    assert code in SEVERITIES
