"""A drawn picture's file."""

import io
from pathlib import Path

from PIL import Image

from maquette.core.files import FOR_THE_USER, atomic_file


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
