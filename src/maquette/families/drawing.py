"""A drawn picture's file."""

import io
from pathlib import Path

from PIL import Image

from maquette.core.files import write_atomic


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture, whole or not at all, without metadata.

    Raises:
        OSError: it could not be written.
    """
    # Encoded in memory first: Pillow's own errors would hide why a write failed.
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    write_atomic(path, encoded.getvalue())
