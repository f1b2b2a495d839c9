"""Pictures as files' bytes, and how far two are apart."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from maquette.core.drawing import Difference
from maquette.core.picture_format import PictureFormat
from maquette.families.base import BadPicture

QUALITY = 95
"""Of the lossy formats, 0..100."""

SAVING: Mapping[PictureFormat, Mapping[str, int]] = {
    PictureFormat.PNG: {},
    PictureFormat.JPEG: {"quality": QUALITY},
    PictureFormat.WEBP: {"quality": QUALITY},
}

UNLIKE = Difference(mean=255.0, largest=255)
"""Between pictures of different sizes."""


def encoded(picture: Image.Image, form: PictureFormat) -> bytes:
    """A picture as a file, without metadata."""
    bare = picture.convert("RGB")
    bare.info.clear()
    file = io.BytesIO()
    bare.save(file, format=form.value, **SAVING[form])
    return file.getvalue()


def decoded(file: bytes) -> Image.Image:
    """The picture in a file's bytes.

    Raises:
        BadPicture: it can't be decoded.
    """
    try:
        with Image.open(io.BytesIO(file)) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadPicture(f"the picture can't be decoded: {error}") from error


def difference(one: Image.Image, other: Image.Image) -> Difference:
    """How far two pictures are apart, over all pixels and the three channels."""
    if one.size != other.size:
        return UNLIKE
    levels = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (one, other))
    apart = np.abs(next(levels) - next(levels))
    return Difference(mean=float(apart.mean()), largest=int(apart.max()))
