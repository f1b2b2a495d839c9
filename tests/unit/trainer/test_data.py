import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from maquette.core.lifecycle import Reason
from maquette.core.specs import Picture, Preparation
from maquette.trainer.data import Shuffle, read_picture, to_pixels
from maquette.trainer.failures import RunFailed

pytestmark = pytest.mark.torch

PICTURE = Picture("0-a.png", "0" * 64)
SQUARE = Preparation(width=64, height=64)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def prepared(folder: Path, image: Image.Image, preparation: Preparation = SQUARE, **save: object) -> Image.Image:
    image.save(folder / PICTURE.name, format=str(save.pop("format", "PNG")), **save)
    return read_picture(folder, PICTURE, preparation)


def stripes(*colours: tuple[int, int, int], width: int = 30, height: int = 60) -> Image.Image:
    """Vertical stripes of equal width."""
    image = Image.new("RGB", (width * len(colours), height))
    for index, colour in enumerate(colours):
        image.paste(colour, (index * width, 0, (index + 1) * width, height))
    return image


def test_a_picture_takes_the_asked_size_and_loses_its_borders(tmp_path: Path) -> None:
    image = prepared(tmp_path, stripes(RED, GREEN, GREEN, BLUE))
    assert (image.size, image.mode) == ((64, 64), "RGB")
    assert image.getpixel((2, 32)) == pytest.approx(GREEN, abs=3)
    assert image.getpixel((61, 32)) == pytest.approx(GREEN, abs=3)


def test_a_wide_target_crops_above_and_below(tmp_path: Path) -> None:
    tall = stripes(RED, GREEN, GREEN, BLUE).rotate(90, expand=True)
    image = prepared(tmp_path, tall, Preparation(width=128, height=64))
    assert image.size == (128, 64)
    assert image.getpixel((64, 4)) == pytest.approx(GREEN, abs=3)
    assert image.getpixel((64, 59)) == pytest.approx(GREEN, abs=3)


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = prepared(tmp_path, stripes(RED, BLUE), exif=exif)
    assert image.getpixel((32, 4)) == RED
    assert image.getpixel((32, 59)) == BLUE


def test_transparency_becomes_white(tmp_path: Path) -> None:
    assert prepared(tmp_path, Image.new("RGBA", (70, 70), (255, 0, 0, 0))).getpixel((9, 9)) == WHITE
    half = prepared(tmp_path, Image.new("RGBA", (70, 70), (255, 0, 0, 128))).getpixel((9, 9))
    assert half == pytest.approx((255, 127, 127), abs=1)


def test_a_palette_with_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    paletted = Image.new("P", (70, 70), 1)
    paletted.putpalette([*RED, *GREEN])
    assert prepared(tmp_path, paletted, transparency=1).getpixel((9, 9)) == WHITE
    assert prepared(tmp_path, paletted, transparency=0).getpixel((9, 9)) == GREEN


@pytest.mark.parametrize(("mode", "value", "expected"), [("L", 100, 100), ("I;16", 100 * 256, 100), ("1", 1, 255)])
def test_grey_pictures_keep_their_brightness(tmp_path: Path, mode: str, value: int, expected: int) -> None:
    assert prepared(tmp_path, Image.new(mode, (70, 70), value)).getpixel((9, 9)) == (expected,) * 3


def test_four_printing_colours_become_three(tmp_path: Path) -> None:
    image = prepared(tmp_path, Image.new("CMYK", (70, 70), (0, 255, 255, 0)), format="JPEG", quality=100)
    assert image.getpixel((9, 9)) == pytest.approx(RED, abs=4)


def test_colours_are_read_through_the_embedded_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A device whose red channel shines green, and the other way round.
    swapped = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    red = Image.new("RGB", (70, 70), RED)
    assert prepared(tmp_path, red, icc_profile=profile).getpixel((9, 9)) == pytest.approx(RED, abs=1)
    assert prepared(tmp_path, red, icc_profile=swapped).getpixel((9, 9)) == pytest.approx(GREEN, abs=1)


def test_a_broken_profile_counts_as_none(tmp_path: Path) -> None:
    assert prepared(tmp_path, Image.new("RGB", (70, 70), RED), icc_profile=b"no profile").getpixel((9, 9)) == RED


def cut_off(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"only words", id="text"),
        pytest.param(b"", id="nothing"),
        pytest.param(cut_off(stripes(RED, GREEN, BLUE), "JPEG"), id="cut-off-jpeg"),
        pytest.param(cut_off(Image.effect_noise((60, 60), 90), "PNG"), id="cut-off-png"),
        pytest.param(cut_off(Image.effect_noise((60, 60), 90).convert("RGB"), "WEBP"), id="cut-off-webp"),
        pytest.param(b"GIF89a" + bytes(20), id="a-format-we-refuse"),
    ],
)
def test_an_unreadable_picture_fails_the_run_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PICTURE.name).write_bytes(content)
    with pytest.raises(RunFailed, match=r"^0-a.png: the picture can't be read") as failure:
        read_picture(tmp_path, PICTURE, SQUARE)
    assert failure.value.reason is Reason.BAD_DATASET


def test_a_picture_that_was_never_staged_in_is_not_the_owners_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path, PICTURE, SQUARE)


def test_pixels_span_minus_one_to_one() -> None:
    pixels = to_pixels(stripes((0, 51, 255), width=3, height=2))
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[:, 0, 0], [-1, -0.6, 1], atol=1e-6)


def test_a_shuffle_takes_every_row_once_a_round() -> None:
    shuffle = Shuffle(5, torch.Generator().manual_seed(1))
    rounds = [shuffle.take(5) for _ in range(3)]
    assert all(sorted(rows) == list(range(5)) for rows in rounds)
    assert len({tuple(rows) for rows in rounds}) > 1


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    shuffle = Shuffle(1, torch.Generator().manual_seed(1))
    assert shuffle.take(4) == [0, 0, 0, 0]


def test_batches_cross_from_one_round_to_the_next() -> None:
    shuffle = Shuffle(3, torch.Generator().manual_seed(1))
    rows = [row for _ in range(3) for row in shuffle.take(2)]
    assert sorted(rows[:3]) == sorted(rows[3:]) == [0, 1, 2]
