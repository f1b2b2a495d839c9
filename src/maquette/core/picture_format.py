"""File formats of pictures, of those that are sent as of those that are drawn."""

from collections.abc import Mapping
from enum import StrEnum


class PictureFormat(StrEnum):
    """A format by its published name, which is also what our own files of it end in."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def content_type(self) -> str:
        """As HTTP calls it."""
        return f"image/{self}"


SUFFIXES: Mapping[str, PictureFormat] = {
    ".png": PictureFormat.PNG,
    ".jpg": PictureFormat.JPEG,
    ".jpeg": PictureFormat.JPEG,
    ".webp": PictureFormat.WEBP,
}
"""What names of pictures end in, in lower case."""
