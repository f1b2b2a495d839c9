import io
from collections.abc import Callable
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from maquette.pictures.findings import MIN_DIFFERENCE
from maquette.pictures.measures import difference, sharpness, thumbnail

PHOTOGRAPHS = ["astronaut", "coffee", "chelsea", "motorcycle_left"]
EXAMPLES = Path(str(files("maquette") / "examples" / "pelu"))


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


SAME: dict[str, Callable[[Image.Image], Image.Image]] = {
    "itself": lambda image: image,
    "compressed": compressed,
    "resized": lambda image: image.resize((200, 150), Image.Resampling.LANCZOS),
    "cropped": lambda image: cropped(image, 0.02),
    "cropped more": lambda image: cropped(image, 0.04),
    "cropped at two sides": lambda image: image.crop((0, 0, round(image.width * 0.98), round(image.height * 0.98))),
    "lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "much lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "richer in contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "poorer in contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "richer in colour": lambda image: ImageEnhance.Color(image).enhance(1.5),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "mirrored, cropped and lighter": lambda image: ImageEnhance.Brightness(
        cropped(ImageOps.mirror(image), 0.04)
    ).enhance(1.1),
}


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without a share of its width and height, half of it on each side."""
    across, down = image.width * share / 2, image.height * share / 2
    return image.crop((round(across), round(down), round(image.width - across), round(image.height - down)))


@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_same_picture_again_is_found(photograph: Callable[[str], Image.Image], name: str, change: str) -> None:
    image = photograph(name)
    assert difference(thumbnail(image), thumbnail(SAME[change](image))) < MIN_DIFFERENCE


def test_the_same_picture_a_little_turned_is_found(astronaut: Image.Image) -> None:
    turned = astronaut.rotate(3, Image.Resampling.BICUBIC)
    assert difference(thumbnail(astronaut), thumbnail(turned)) < MIN_DIFFERENCE


def test_other_pictures_differ_much(photograph: Callable[[str], Image.Image]) -> None:
    thumbnails = [thumbnail(photograph(name)) for name in PHOTOGRAPHS]
    others = [(one, other) for index, one in enumerate(thumbnails) for other in thumbnails[index + 1 :]]
    assert all(difference(one, other) > 0.8 for one, other in others)


def test_pictures_of_one_subject_are_not_the_same() -> None:
    pictures = [picture for folder in (EXAMPLES, EXAMPLES / "held-out") for picture in sorted(folder.glob("*.png"))]
    thumbnails = [thumbnail(Image.open(picture).convert("RGB")) for picture in pictures]
    assert len(thumbnails) == 10
    assert min(difference(one, other) for one, other in combinations(thumbnails, 2)) > 2 * MIN_DIFFERENCE


def test_nor_are_faces_of_different_people_cut_out_alike() -> None:
    """The hardest there is: eyes, nose and mouth of all lie in the same places, in pictures of 25 pixels."""
    with (files("skimage") / "data" / "lfw_subset.npy").open("rb") as file:
        faces = (np.load(file)[:100] * 255).astype(np.uint8)
    thumbnails = [thumbnail(Image.fromarray(face).convert("RGB")) for face in faces]
    assert min(difference(one, other) for one, other in combinations(thumbnails, 2)) > MIN_DIFFERENCE


def test_grey_pictures_are_compared_with_coloured_ones_without_colour() -> None:
    """What is told apart by colour alone is the same where one of the two has none."""
    halves = {name: Image.new("RGB", (64, 64), "white") for name in ("red", "teal", "grey")}
    for name, image in halves.items():
        image.paste(name, (0, 0, 32, 64))
    red, teal, grey = (thumbnail(image) for image in halves.values())
    assert difference(red, teal) > MIN_DIFFERENCE
    assert difference(red, grey) < 0.05


def test_a_small_thing_on_a_plain_ground_is_seen() -> None:
    red, blue = (Image.new("RGB", (512, 512), "white") for _ in range(2))
    red.paste("red", (200, 200, 280, 280))
    blue.paste("blue", (200, 200, 280, 280))
    assert difference(thumbnail(red), thumbnail(blue)) > 2 * MIN_DIFFERENCE
    white = thumbnail(Image.new("RGB", (512, 512), "white"))
    assert difference(white, white) == 0
    assert difference(white, thumbnail(red)) > MIN_DIFFERENCE
