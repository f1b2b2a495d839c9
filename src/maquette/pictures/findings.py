"""What there is to say of a task's pictures before training: the one judge, for trainers and for `plan`."""

from collections.abc import Iterator, Mapping, Sequence

from maquette.core.decoding import UnreadablePicture
from maquette.core.findings import Finding, FindingCode, finding
from maquette.core.specs import Picture, Preparation, TaskType, TrainingSpec
from maquette.pictures.measures import difference
from maquette.pictures.preparation import PictureFacts

MIN_SHARPNESS = 2.0
"""A picture that measures less was out of focus, shaken, or enlarged before it came."""
MAX_ENLARGEMENT = 1.0
MIN_DIFFERENCE = 0.35
"""Two pictures that differ less, as `measures.difference` counts it, show the same.

Measured on twelve photographs and ten drawings of one character: the same picture compressed, resized, mirrored, grey,
or by a third lighter, darker, richer or poorer in contrast differs by 0.33 at most, one that lost 4 % of its sides by
0.30; one turned by 3 degrees is found in two of three. Two of the photographs differ by 0.89 at least, two of the
drawings by 0.71, and of a hundred people's faces, cut out alike and small, the nearest two by 0.37.
"""


def find_out(spec: TrainingSpec, facts: Mapping[str, PictureFacts], *, restored: bool) -> list[Finding]:
    """Everything worth telling about a task's pictures, in their order.

    Args:
        spec: what they are wanted for.
        facts: of each picture that could be read, by its name.
        restored: whether there is who restores faces, where that is asked for.
    """
    found = list(_of_the_task(spec.preparation, facts, restored=restored))
    for picture in spec.pictures:
        if picture.name in facts:
            found += _of_size_and_focus(picture.name, facts[picture.name])
            found += _of_faces(picture.name, facts[picture.name], spec)
    return [*found, *_of_duplicates([picture for picture in spec.pictures if picture.name in facts], facts)]


def unreadable(picture: str, error: UnreadablePicture) -> Finding:
    """What there is to say of a picture that has no facts."""
    return finding(FindingCode.UNREADABLE, f"{error}; send it again, or leave it out", picture)


def _of_the_task(preparation: Preparation, facts: Mapping[str, PictureFacts], *, restored: bool) -> Iterator[Finding]:
    if preparation.face_restore is not None and not restored:
        yield finding(
            FindingCode.FACES_NOT_RESTORED,
            f"face_restore: {preparation.face_restore} is not installed on this server; faces stay as they are",
        )
    searched = all(fact.faces is not None for fact in facts.values())
    if preparation.face_crop_ratio is not None and not searched:
        yield finding(
            FindingCode.FACES_NOT_SEARCHED,
            "face_crop_region: nothing on this server looks for faces; pictures are cropped around their centre",
        )


def _of_size_and_focus(name: str, facts: PictureFacts) -> Iterator[Finding]:
    crop, size = facts.crop.size, facts.size
    enlarged = size.width / crop.width
    if enlarged > MAX_ENLARGEMENT:
        yield finding(
            FindingCode.TOO_SMALL,
            f"the part that is trained on has {crop.width}x{crop.height} pixels and is enlarged to"
            f" {size.width}x{size.height}; send a larger picture, or ask for a smaller width and height",
            name,
        )
    if facts.sharpness is not None and facts.sharpness < MIN_SHARPNESS:
        yield finding(
            FindingCode.BLURRED,
            f"the picture is blurred: its sharpness is {facts.sharpness:.1f}, from {MIN_SHARPNESS} on it is fine;"
            " the LoRA learns the blur too",
            name,
        )


def _of_faces(name: str, facts: PictureFacts, spec: TrainingSpec) -> Iterator[Finding]:
    if facts.faces is None:
        return
    cropped = spec.preparation.face_crop_ratio is not None
    if cropped and not facts.faces:
        yield finding(
            FindingCode.NO_FACE, "face_crop_region: no face was found; the picture is cropped around its centre", name
        )
    elif len(facts.faces) > 1 and (cropped or spec.task_type is TaskType.SUBJECT):
        taken = "it is cropped around the biggest" if cropped else "the LoRA may mix them up"
        yield finding(FindingCode.SEVERAL_FACES, f"the picture has {len(facts.faces)} faces; {taken}", name)


def _of_duplicates(pictures: Sequence[Picture], facts: Mapping[str, PictureFacts]) -> Iterator[Finding]:
    """One finding for each picture that shows what a trained one does: an earlier one, or any where it is held out."""
    for index, picture in enumerate(pictures):
        others = pictures if picture.held_out else pictures[:index]
        trained = (other.name for other in others if not other.held_out)
        twin = next((name for name in trained if _alike(facts[name], facts[picture.name])), None)
        if twin is None:
            continue
        harm = (
            "its validation loss tells how well that one is remembered, so hold out another picture"
            if picture.held_out
            else "leave one out, or the LoRA learns it twice as much"
        )
        yield finding(FindingCode.NEAR_DUPLICATE, f"the picture shows nearly the same as {twin}; {harm}", picture.name)


def _alike(one: PictureFacts, other: PictureFacts) -> bool:
    return difference(one.thumbnail, other.thumbnail) < MIN_DIFFERENCE
