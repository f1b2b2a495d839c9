"""Photographs and drawings for every test of pictures."""

import io
from collections.abc import Callable
from importlib.resources import files

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photograph() -> Callable[[str], Image.Image]:
    """Opens one of scikit-image's photographs; `astronaut` is 512 x 512 and shows one woman's face."""

    def opened(name: str) -> Image.Image:
        with (files("skimage") / "data" / f"{name}.png").open("rb") as file:
            return Image.open(file).convert("RGB")

    return opened


@pytest.fixture(scope="session")
def astronaut(photograph: Callable[[str], Image.Image]) -> Image.Image:
    return photograph("astronaut")


@pytest.fixture(scope="session")
def png() -> Callable[[Image.Image], bytes]:
    """Writes a picture as a PNG file's bytes."""

    def encoded(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    return encoded
