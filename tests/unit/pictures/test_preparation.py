from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image, ImageFilter

from maquette.core.decoding import UnreadablePicture
from maquette.core.findings import FindingCode
from maquette.core.specs import Picture, Preparation
from maquette.pictures.crops import Box, Size
from maquette.pictures.faces import FaceDetector, load_detector
from maquette.pictures.findings import find_out
from maquette.pictures.preparation import PictureFacts, Preparer
from maquette.testing.factories import training_spec

Png = Callable[[Image.Image], bytes]
SQUARE = Preparation(width=64, height=64)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class FacesAt:
    """Finds faces where it is told that there are some."""

    def __init__(self, *faces: Box) -> None:
        self.faces = faces
        self.identity = "told"

    def find(self, image: Image.Image) -> tuple[Box, ...]:
        return self.faces


class Doubling:
    """Restores faces by painting everything blue."""

    def __init__(self, identity: str = "doubling 1") -> None:
        self.identity = identity

    def restore(self, image: Image.Image, upscale: float) -> Image.Image:
        return Image.new("RGB", (round(image.width * upscale), round(image.height * upscale)), BLUE)


def stripes(*colours: tuple[int, int, int], width: int = 30, height: int = 60) -> Image.Image:
    """Vertical stripes of equal width."""
    image = Image.new("RGB", (width * len(colours), height))
    for index, colour in enumerate(colours):
        image.paste(colour, (index * width, 0, (index + 1) * width, height))
    return image


def test_a_picture_takes_the_asked_size(png: Png) -> None:
    prepared = Preparer(replace(SQUARE, width=128), None).prepare(png(stripes(RED, GREEN)))
    assert (prepared.image.size, prepared.image.mode) == ((128, 64), "RGB")
    assert (prepared.facts.picture, prepared.facts.size) == ((60, 60), (128, 64))
    assert prepared.facts.crop.size == (60, 30)
    assert prepared.facts.faces is None


def test_a_face_in_a_corner_stays_in_the_crop(png: Png) -> None:
    image = stripes(*[GREEN] * 10, RED)
    face = Box(300, 10, 330, 40)
    prepared = Preparer(SQUARE, FacesAt(face)).prepare(png(image))
    assert prepared.facts.crop == Box(270, 0, 330, 60)
    assert prepared.image.getpixel((62, 32)) == RED
    assert prepared.facts.faces == (face,)


def test_the_biggest_face_is_cropped_around(png: Png) -> None:
    preparer = Preparer(replace(SQUARE, face_crop_ratio=2.0), FacesAt(Box(0, 0, 5, 5), Box(100, 20, 120, 40)))
    assert preparer.prepare(png(stripes(*[GREEN] * 6))).facts.crop == Box(90, 10, 130, 50)


def test_without_a_face_the_asked_crop_is_central(png: Png) -> None:
    """What stands out is no substitute for a face that was asked for: the finding says where the crop is."""
    prepared = Preparer(replace(SQUARE, face_crop_ratio=2.0), FacesAt()).prepare(png(stripes(RED, GREEN, GREEN, GREEN)))
    assert prepared.facts.crop == Box(30, 0, 90, 60)


def test_the_astronauts_face_fills_the_crop(astronaut: Image.Image, png: Png) -> None:
    detector = load_detector("")
    preparer = Preparer(Preparation(width=128, height=128, face_crop_ratio=1.4), detector)
    facts = preparer.prepare(png(astronaut)).facts
    assert facts.faces
    (face,) = facts.faces
    assert facts.crop.size.width == pytest.approx(1.4 * face.size.width, abs=2)
    assert facts.crop.left < face.left < face.right < facts.crop.right
    assert facts.crop.top < face.top < face.bottom < facts.crop.bottom


def with_astronaut_at(left: int, top: int, size: tuple[int, int], astronaut: Image.Image) -> Image.Image:
    image = Image.new("RGB", size, (90, 110, 100))
    image.paste(astronaut, (left, top))
    return image


@pytest.mark.parametrize("width", [128, 64])
@pytest.mark.parametrize("place", [0, 300, 600])
def test_no_crop_cuts_the_astronauts_head_off(width: int, place: int, astronaut: Image.Image, png: Png) -> None:
    """Its head lies between 150 and 300, and from 20 to 170 from above."""
    preparation = Preparation(width=width, height=192 - width)
    wide = width < 96
    size = (1112, 512) if wide else (512, 1112)
    image = with_astronaut_at(*((place, 0) if wide else (0, place)), size, astronaut)
    crop = Preparer(preparation, load_detector("")).prepare(png(image)).facts.crop
    if wide:
        assert crop.left <= place + 150 < place + 300 <= crop.right
    else:
        assert crop.top <= place + 20 < place + 170 <= crop.bottom


def test_in_buckets_pictures_keep_their_shapes(png: Png) -> None:
    preparer = Preparer(Preparation(width=512, height=512, buckets=True), None)
    wide, tall = Image.new("RGB", (300, 200)), Image.new("RGB", (200, 300))
    assert [preparer.prepare(png(image)).image.size for image in (wide, tall)] == [(640, 384), (384, 640)]


def test_an_enlarged_picture_is_as_sharp_as_it_came(astronaut: Image.Image, png: Png) -> None:
    preparer, small = Preparer(Preparation(width=512, height=512), None), astronaut.crop((128, 0, 384, 256))
    for image, sharp in ((small, True), (small.filter(ImageFilter.GaussianBlur(2)), False)):
        facts = preparer.prepare(png(image)).facts
        assert (facts.crop.size, facts.size) == ((256, 256), (512, 512))
        assert facts.sharpness is not None
        assert (facts.sharpness > 4) is sharp


def test_faces_are_restored_first_and_pictures_grow_by_it(png: Png) -> None:
    preparation = replace(SQUARE, face_restore="any", face_restore_upscale=2.0)
    prepared = Preparer(preparation, None, Doubling()).prepare(png(stripes(RED)))
    assert prepared.facts.picture == Size(60, 120)
    assert prepared.image.getpixel((32, 32)) == BLUE


def test_a_picture_that_cannot_be_read_is_told() -> None:
    with pytest.raises(UnreadablePicture):
        Preparer(SQUARE, None).prepare(b"words")


def test_facts_are_data_of_a_plain_picture_too(astronaut: Image.Image, png: Png) -> None:
    preparer = Preparer(SQUARE, load_detector(""))
    for image in (astronaut, Image.new("RGB", (70, 70), "red")):
        facts = preparer.prepare(png(image)).facts
        assert msgspec.json.decode(msgspec.json.encode(facts), type=PictureFacts) == facts


FEW, MANY = st.integers(1, 8), st.integers(1, 5000)
sizes = st.builds(Size, FEW, MANY) | st.builds(Size, MANY, FEW) | st.builds(Size, FEW, FEW)
sides = st.sampled_from([64, 128, 512, 2048])
preparations = st.builds(
    Preparation,
    width=sides,
    height=sides,
    buckets=st.booleans(),
    face_crop_ratio=st.sampled_from([None, 0.5, 1.4, 10.0]),
)


def noise(size: Size) -> Image.Image:
    """A picture of which no part is plain."""
    values = np.random.default_rng(size.width * size.height).integers(0, 256, (size.height, size.width, 3))
    return Image.fromarray(values.astype(np.uint8))


@st.composite
def detectors(draw: st.DrawFn, picture: Size) -> FacesAt | None:
    """One that finds a face somewhere in a picture, one that finds none, or no detector."""
    left, top = draw(st.integers(0, picture.width - 1)), draw(st.integers(0, picture.height - 1))
    right, bottom = draw(st.integers(left + 1, picture.width)), draw(st.integers(top + 1, picture.height))
    return draw(st.sampled_from([None, FacesAt(), FacesAt(Box(left, top, right, bottom))]))


@given(sizes, preparations, st.data())
@settings(deadline=None)
def test_a_picture_of_any_size_is_trained_on_in_any_way(
    png: Png, size: Size, preparation: Preparation, data: st.DataObject
) -> None:
    prepared = Preparer(preparation, data.draw(detectors(size))).prepare(png(noise(size)))
    facts = prepared.facts
    assert (prepared.image.size, facts.picture) == (facts.size, size)
    assert 0 <= facts.crop.left < facts.crop.right <= size.width
    assert 0 <= facts.crop.top < facts.crop.bottom <= size.height
    assert msgspec.json.decode(msgspec.json.encode(facts), type=PictureFacts) == facts
    training = replace(training_spec(), pictures=(Picture("it.png", "0" * 64),), preparation=preparation)
    assert FindingCode.TOO_SMALL in [found.code for found in find_out(training, {"it.png": facts}, restored=False)]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (3, 3), (4, 2)])
def test_of_hardly_a_picture_no_blur_is_told(size: tuple[int, int], png: Png) -> None:
    assert Preparer(SQUARE, None).prepare(png(noise(Size(*size)))).facts.sharpness is None


def test_equal_preparers_make_equal_pictures(astronaut: Image.Image, png: Png) -> None:
    one, other = (Preparer(SQUARE, load_detector("")) for _ in range(2))
    assert one.identity == other.identity
    assert one.prepare(png(astronaut)).image.tobytes() == other.prepare(png(astronaut)).image.tobytes()


@pytest.mark.parametrize(
    ("preparation", "detector", "restorer"),
    [
        (replace(SQUARE, width=128), None, None),
        (replace(SQUARE, buckets=True), None, None),
        (replace(SQUARE, background="#000000"), None, None),
        (replace(SQUARE, face_crop_ratio=1.0), None, None),
        (SQUARE, FacesAt(), None),
        (SQUARE, None, Doubling()),
        (SQUARE, None, Doubling("doubling 2")),
    ],
)
def test_whatever_decides_pixels_is_in_the_identity(
    preparation: Preparation, detector: FaceDetector | None, restorer: Doubling | None
) -> None:
    assert Preparer(preparation, detector, restorer).identity != Preparer(SQUARE, None).identity
    assert Preparer(preparation, detector, restorer).identity != Preparer(SQUARE, FacesAt(), Doubling()).identity
