import io
from collections.abc import Callable

import pytest
from PIL import Image, ImageEnhance, ImageFilter

from maquette.pictures.measures import difference, sharpness, thumbnail

PHOTOGRAPHS = ["astronaut", "coffee", "chelsea", "motorcycle_left"]


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("side", [128, 256, 400])
def test_photographs_in_focus_are_sharp_and_blurred_ones_are_not(
    photograph: Callable[[str], Image.Image], name: str, side: int
) -> None:
    image = photograph(name).resize((side, side), Image.Resampling.LANCZOS)
    assert (sharpness(image) or 0) > 4
    assert (sharpness(image.filter(ImageFilter.GaussianBlur(2))) or 9) < 2
    assert (sharpness(image.filter(ImageFilter.GaussianBlur(6))) or 9) < 2


def test_contrast_is_no_sharpness(astronaut: Image.Image) -> None:
    pale = ImageEnhance.Contrast(astronaut).enhance(0.3)
    assert (sharpness(pale) or 0) > 4


def test_a_plain_surface_is_not_called_blurred() -> None:
    assert sharpness(Image.new("RGB", (64, 64), "red")) is None


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_same_picture_again_differs_little(photograph: Callable[[str], Image.Image], name: str) -> None:
    image = photograph(name)
    again = [image, compressed(image), image.resize((200, 150), Image.Resampling.LANCZOS)]
    assert all(difference(thumbnail(image), thumbnail(one)) < 0.05 for one in again)


def test_other_pictures_differ_much(photograph: Callable[[str], Image.Image]) -> None:
    thumbnails = [thumbnail(photograph(name)) for name in PHOTOGRAPHS]
    others = [(one, other) for index, one in enumerate(thumbnails) for other in thumbnails[index + 1 :]]
    assert all(difference(one, other) > 0.5 for one, other in others)
    mirrored = thumbnail(photograph("coffee").transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert difference(thumbnails[1], mirrored) > 0.5


def test_a_small_thing_on_a_plain_ground_is_seen() -> None:
    red, blue = (Image.new("RGB", (512, 512), "white") for _ in range(2))
    red.paste("red", (200, 200, 280, 280))
    blue.paste("blue", (200, 200, 280, 280))
    assert difference(thumbnail(red), thumbnail(blue)) > 0.15
    white = thumbnail(Image.new("RGB", (512, 512), "white"))
    assert difference(white, white) == 0
