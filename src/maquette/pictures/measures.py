"""What can be measured of a picture to tell whether it is worth learning from."""

from PIL import Image, ImageChops, ImageFilter, ImageStat

THUMBNAIL = (16, 16)
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=2, offset=128)
"""Halved, so that 8 bits hold nearly all of it."""
_PLAIN = 4.0
"""Variance of brightness (0..255) below which there is nothing that could be sharp."""
_LITTLE = 4.0
"""Standard deviation of channel values (0..255) under which a thumbnail shows little but noise."""
_ROUNDING = 0.25
"""Variance of the Laplacian that rounding to eight bits makes of nothing."""


def sharpness(image: Image.Image) -> float | None:
    """How much of a picture's fine detail a blur of one pixel takes away, as a ratio; about 1 where it is blurred.

    None where the picture is so plain that nothing could be sharp.

    The variance of the Laplacian (Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy), over that
    of the picture blurred once more (Crété et al. 2007, The blur effect): so neither contrast nor subject matter much.
    Photographs in focus measure 4 and more.
    """
    grey = image.convert("L")
    if ImageStat.Stat(grey).var[0] < _PLAIN:
        return None
    return _detail(grey) / max(_ROUNDING, _detail(grey.filter(ImageFilter.GaussianBlur(1))))


def thumbnail(image: Image.Image) -> bytes:
    """A picture in 16 x 16 mean colours."""
    return image.resize(THUMBNAIL, Image.Resampling.BOX).tobytes()


def difference(one: bytes, other: bytes) -> float:
    """How much two thumbnails differ, as a share of how much there is to see in either; 0 where they are the same.

    It is the mean difference of their channel values over the smaller of their standard deviations. The same picture
    compressed or resized anew stays below 0.05, a little cropped or brightened below 0.2; two pictures of one thing
    differ by 0.5 and more.
    """
    pair = [Image.frombytes("RGB", THUMBNAIL, data) for data in (one, other)]
    there = min(_mean(ImageStat.Stat(image).stddev) for image in pair)
    return _mean(ImageStat.Stat(ImageChops.difference(*pair)).mean) / max(there, _LITTLE)


def _mean(channels: list[float]) -> float:
    return sum(channels) / len(channels)


def _detail(grey: Image.Image) -> float:
    inside = (1, 1, grey.width - 1, grey.height - 1)
    return ImageStat.Stat(grey.filter(_LAPLACIAN).crop(inside)).var[0]
