"""Where to cut a picture: boxes, and the window of a shape that keeps what matters. Nothing is decoded here."""

from collections.abc import Sequence
from typing import NamedTuple

HEADROOM = 0.6
"""Of a face's height: detectors mark it from eyebrows to chin, and hair lies above."""
SIDEROOM = 0.25
"""Of a face's size: what belongs to a head beside and below the face."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Box(NamedTuple):
    """A part of a picture in pixels, as Pillow's `crop` takes it: right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        """Its width and height."""
        return Size(self.right - self.left, self.bottom - self.top)

    @property
    def area(self) -> int:
        """Its pixels."""
        return self.size.width * self.size.height

    @property
    def center(self) -> tuple[float, float]:
        """Its middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


def biggest(faces: Sequence[Box]) -> Box:
    """The face with the most pixels; of equals the first."""
    return max(faces, key=lambda face: face.area)


def head(face: Box) -> Box:
    """The head around a face as detectors mark it; may reach out of the picture."""
    side = round(face.size.width * SIDEROOM)
    above, below = round(face.size.height * HEADROOM), round(face.size.height * SIDEROOM)
    return Box(face.left - side, face.top - above, face.right + side, face.bottom + below)


def heads_center(faces: Sequence[Box], window: Size) -> tuple[float, float]:
    """The centre of all heads where a window of this size can hold them, else of the biggest."""
    heads = [head(face) for face in faces]
    lefts, tops, rights, bottoms = zip(*heads, strict=True)
    together = Box(min(lefts), min(tops), max(rights), max(bottoms))
    fits = together.size.width <= window.width and together.size.height <= window.height
    return together.center if fits else head(biggest(faces)).center


def cover(picture: Size, shape: Size, center: tuple[float, float]) -> Box:
    """The largest window of a shape that fits into a picture, as near to a centre as it can be."""
    scale = min(picture.width / shape.width, picture.height / shape.height)
    return _window(picture, shape, scale, center)


def around(picture: Size, shape: Size, face: Box, ratio: float) -> Box:
    """The window of a shape around a face whose shorter side is `ratio` times the face's longer one.

    It is the largest that fits where the picture is smaller than that, and it never leaves the picture.
    """
    wanted = ratio * max(face.size) / min(shape)
    scale = min(wanted, picture.width / shape.width, picture.height / shape.height)
    return _window(picture, shape, scale, face.center)


def _window(picture: Size, shape: Size, scale: float, center: tuple[float, float]) -> Box:
    width = min(picture.width, max(1, round(shape.width * scale)))
    height = min(picture.height, max(1, round(shape.height * scale)))
    left = min(max(0, round(center[0] - width / 2)), picture.width - width)
    top = min(max(0, round(center[1] - height / 2)), picture.height - height)
    return Box(left, top, left + width, top + height)
