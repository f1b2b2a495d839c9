"""What can be measured of a picture to tell whether it is worth learning from."""

from PIL import Image, ImageChops, ImageFilter, ImageStat

THUMBNAIL = (16, 16)
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=2, offset=128)
"""Halved, so that 8 bits hold nearly all of it."""
_PLAIN = 4.0
"""Variance of brightness (0..255) below which there is nothing that could be sharp."""
_LEAST_SIDE = 4
"""Pixels of a side from which detail can be measured: the Laplacian leaves out one at each end, and one alone varies in
nothing."""
_LITTLE = 3.0
"""Contrast under which a thumbnail shows little but noise."""
_COLOURLESS = 8
"""Most by which the channels of a thumbnail without colour are apart, compressed as it may be."""
_SHIFTS = [(across, down) for across in (-1, 0, 1) for down in (-1, 0, 1)]
"""Pixels of a thumbnail by which the same may lie elsewhere in another."""
_ROUNDING = 0.25
"""Variance of the Laplacian that rounding to eight bits makes of nothing."""


def sharpness(image: Image.Image) -> float | None:
    """How much of a picture's fine detail a blur of one pixel takes away, as a ratio; about 1 where it is blurred.

    None where the picture is so plain, or so small, that nothing could be sharp.

    The variance of the Laplacian (Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy), over that
    of the picture blurred once more (Crété et al. 2007, The blur effect): so neither contrast nor subject matter much.
    Photographs in focus measure 4 and more.
    """
    grey = image.convert("L")
    if min(grey.size) < _LEAST_SIDE or ImageStat.Stat(grey).var[0] < _PLAIN:
        return None
    return _detail(grey) / max(_ROUNDING, _detail(grey.filter(ImageFilter.GaussianBlur(1))))


def thumbnail(image: Image.Image) -> bytes:
    """A picture in 16 x 16 mean colours."""
    return image.resize(THUMBNAIL, Image.Resampling.BOX).tobytes()


def difference(one: bytes, other: bytes) -> float:
    """How much two thumbnails differ, as a share of how much there is to see in either; 0 where they are the same.

    It is the mean difference of their channel values over their contrast, once both are equally bright and rich in
    contrast; the least that comes out where one is moved a little, mirrored or not. Where one has no colour, the
    other's does not count.
    """
    pair = [Image.frombytes("RGB", THUMBNAIL, data) for data in (one, other)]
    if any(_colourless(image) for image in pair):
        pair = [image.convert("L") for image in pair]
    # Contrast is taken away rather than added, which could go beyond what channel values can be.
    fainter, stronger = sorted(pair, key=_contrast)
    matched = _matched(stronger, fainter)
    views = (matched, matched.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    least = min(_mean_difference(fainter, view, *shift) for view in views for shift in _SHIFTS)
    return least / max(_contrast(fainter), _LITTLE)


def _colourless(image: Image.Image) -> bool:
    red, green, blue = image.split()
    apart = [ImageChops.difference(one, green).tobytes() for one in (red, blue)]
    return max(map(max, apart)) <= _COLOURLESS


def _contrast(image: Image.Image) -> float:
    """Mean deviation of channel values (0..255) from their channel's mean."""
    ground = Image.new(image.mode, image.size, tuple(round(mean) for mean in ImageStat.Stat(image).mean))
    return _mean_difference(image, ground, 0, 0)


def _matched(image: Image.Image, to: Image.Image) -> Image.Image:
    """An image with the mean of each of another's channels, and with its contrast."""
    factor = max(_contrast(to), _LITTLE) / max(_contrast(image), _LITTLE)
    means = zip(ImageStat.Stat(image).mean, ImageStat.Stat(to).mean, strict=True)
    return image.point([round(wanted + factor * (value - mean)) for mean, wanted in means for value in range(256)])


def _mean_difference(one: Image.Image, other: Image.Image, across: int, down: int) -> float:
    """Of channel values, where both are when the other is moved by so many pixels."""
    width, height = one.width - abs(across), one.height - abs(down)
    left, top = max(across, 0), max(down, 0)
    moved_left, moved_top = max(-across, 0), max(-down, 0)
    apart = ImageChops.difference(
        one.crop((left, top, left + width, top + height)),
        other.crop((moved_left, moved_top, moved_left + width, moved_top + height)),
    ).tobytes()
    return sum(apart) / len(apart)


def _detail(grey: Image.Image) -> float:
    inside = (1, 1, grey.width - 1, grey.height - 1)
    return ImageStat.Stat(grey.filter(_LAPLACIAN).crop(inside)).var[0]
