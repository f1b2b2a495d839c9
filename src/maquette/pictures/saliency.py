"""Where a picture has what the eye goes to, for crops that keep it."""

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageFilter, ImageStat

from maquette.pictures.crops import Size
from maquette.pictures.shrinking import shrunk

WORKING_SIDE = 128
"""Pixels of the longer side that is looked at: fine detail is no matter, and this takes a millisecond."""
BLUR = ImageFilter.GaussianBlur(2)
"""Over this many pixels of it noise and texture are averaged away."""
GAIN = 4
"""Details differ little from what is around them: this makes use of all eight bits."""
CENTER = 0.3
"""What of all that stands out a window must have more, to be taken though it is off the centre by a whole side."""


def salient_center(image: Image.Image, shape: Size) -> tuple[float, float]:
    """The centre of the window of a shape, as large as an RGB picture holds, that has most of what stands out.

    What stands out differs in colour from the picture's mean (Achanta et al. 2009, Frequency-tuned salient region
    detection, equation 4; in RGB) and is in focus: both are multiplied. People put in the centre what matters, so a
    window near it wins over one that has a little more.
    """
    small = shrunk(image, WORKING_SIDE)
    standing_out = ImageChops.multiply(_distinct_colour(small), _detail(small))
    scale = min(small.width / shape.width, small.height / shape.height)
    across = _best_center(_profile(standing_out, Size(small.width, 1)), shape.width * scale)
    down = _best_center(_profile(standing_out, Size(1, small.height)), shape.height * scale)
    return across * image.width / small.width, down * image.height / small.height


def _distinct_colour(image: Image.Image) -> Image.Image:
    mean = tuple(round(value) for value in ImageStat.Stat(image).mean)
    return ImageChops.difference(image.filter(BLUR), Image.new("RGB", image.size, mean)).convert("L")


def _detail(image: Image.Image) -> Image.Image:
    grey = image.convert("L")
    difference = ImageChops.difference(grey, grey.filter(BLUR)).filter(BLUR)
    return difference.point([min(255, value * GAIN) for value in range(256)])


def _profile(saliency: Image.Image, size: Size) -> list[int]:
    """Means over columns or rows, each in 0..255."""
    return list(saliency.resize(size, Image.Resampling.BOX).tobytes())


def _best_center(profile: Sequence[int], window: float) -> float:
    length = min(len(profile), max(1, round(window)))
    middle, total = (len(profile) - length) / 2, sum(profile) or 1

    def worth(first: int) -> float:
        return sum(profile[first : first + length]) / total - CENTER * abs(first - middle) / len(profile)

    return max(range(len(profile) - length + 1), key=worth) + length / 2
