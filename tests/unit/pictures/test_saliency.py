from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw

from maquette.pictures.crops import Size, cover
from maquette.pictures.saliency import salient_center

SQUARE = Size(64, 64)


def disc_at(left: int, top: int, size: tuple[int, int]) -> Image.Image:
    """A checked disc of 60 pixels on a plain ground."""
    image = Image.new("RGB", size, (120, 120, 110))
    draw = ImageDraw.Draw(image)
    draw.ellipse((left, top, left + 60, top + 60), fill=(220, 30, 30))
    draw.ellipse((left + 15, top + 15, left + 45, top + 45), fill=(250, 240, 40))
    return image


@pytest.mark.parametrize("left", [0, 60, 180, 300, 340])
def test_what_stands_out_stays_in_the_crop(left: int) -> None:
    wide, tall = disc_at(left, 20, (400, 100)), disc_at(20, left, (100, 400))
    across = cover(Size(400, 100), SQUARE, salient_center(wide, SQUARE))
    down = cover(Size(100, 400), SQUARE, salient_center(tall, SQUARE))
    assert across.left <= left
    assert left + 60 <= across.right
    assert down.top <= left
    assert left + 60 <= down.bottom


def test_where_nothing_stands_out_the_crop_is_central() -> None:
    assert salient_center(Image.new("RGB", (400, 100), "red"), SQUARE) == pytest.approx((200, 50), abs=4)


def test_the_cat_stays_in_the_picture_and_its_blurred_background_goes(
    photograph: Callable[[str], Image.Image],
) -> None:
    """Its eyes lie from 140 to 350 of 451 pixels; what is behind it, on the right, is brighter and out of focus."""
    cat = photograph("chelsea")
    crop = cover(Size(*cat.size), SQUARE, salient_center(cat, SQUARE))
    assert crop.left < 140
    assert crop.right > 350


def test_a_picture_of_one_pixel_has_a_centre() -> None:
    assert salient_center(Image.new("RGB", (1, 1)), SQUARE) == (0.5, 0.5)
