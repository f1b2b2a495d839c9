"""Pictures as files, and how far two are apart."""

import io

import numpy as np
import pytest
from PIL import Image

from maquette.core.drawing import Difference
from maquette.core.picture_format import PictureFormat
from maquette.families.base import BadPicture
from maquette.inference.pictures import decoded, difference, encoded

pytestmark = pytest.mark.torch


@pytest.fixture
def picture() -> Image.Image:
    levels = np.linspace(0, 255, 32 * 48 * 3).reshape(32, 48, 3)
    return Image.fromarray(levels.astype(np.uint8))


@pytest.mark.parametrize("form", PictureFormat)
def test_a_picture_becomes_a_file_without_metadata(picture: Image.Image, form: PictureFormat) -> None:
    picture.info |= {"icc_profile": b"profile", "exif": b"Exif\0\0secret", "comment": b"secret"}
    file = encoded(picture, form)
    assert b"secret" not in file
    assert b"profile" not in file
    with Image.open(io.BytesIO(file)) as read:
        assert (read.format, read.size, read.mode) == (form.value.upper(), (48, 32), "RGB")
    assert difference(decoded(file), picture).mean < (1e-9 if form is PictureFormat.PNG else 5)


def test_differences_are_of_channels(picture: Image.Image) -> None:
    assert difference(picture, picture) == Difference(mean=0.0, largest=0)
    levels = np.array(picture)
    levels[3, 4, 1] ^= 0b1000_0000
    other = Image.fromarray(levels)
    assert difference(picture, other) == difference(other, picture)
    assert difference(picture, other).largest == 128
    assert difference(picture, other).mean == pytest.approx(128 / levels.size)


def test_pictures_of_other_sizes_are_as_far_apart_as_can_be(picture: Image.Image) -> None:
    assert difference(picture, picture.resize((48, 33))) == Difference(mean=255.0, largest=255)


@pytest.mark.parametrize("cut", [0, 10, -200])
def test_what_is_no_picture_is_told(picture: Image.Image, cut: int) -> None:
    with pytest.raises(BadPicture, match="can't be decoded"):
        decoded(encoded(picture, PictureFormat.PNG)[:cut])
