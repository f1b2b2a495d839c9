"""Pictures as tensors and as files: what latents are made of, and what was drawn."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from maquette.core.decoding import UnreadablePicture, decode
from maquette.core.files import FOR_THE_USER, atomic_file
from maquette.families.base import BadPicture

WHITE = "#ffffff"


def read_original(data: bytes, width: int, height: int) -> torch.Tensor:
    """A picture file as (1, 3, height, width) in [-1, 1]: as `decode` reads it, resized, cropped around the centre.

    Raises:
        BadPicture: it can't be decoded.
    """
    try:
        rgb = decode(data, WHITE)
    except UnreadablePicture as error:
        raise BadPicture(f"the picture to start from can't be read: {error.__cause__}") from error
    fitted = ImageOps.fit(rgb, (width, height), Image.Resampling.LANCZOS)
    return to_pixels(fitted)[None]


def to_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB picture as (3, height, width), float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    return values.permute(2, 0, 1) / 127.5 - 1


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture, whole or not at all, without metadata.

    Raises:
        OSError: it could not be written.
    """
    # Encoded in memory first: Pillow's own errors would hide why a write failed.
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    with atomic_file(path, FOR_THE_USER) as file:
        file.write(encoded.getvalue())
