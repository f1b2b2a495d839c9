"""Aspect-ratio buckets: the few sizes that pictures of all shapes are brought to.

After NovelAI's "Aspect Ratio Bucketing" (2022): every size whose sides are multiples of 64 and whose pixels are no more
than those of the asked size; a picture takes the one whose shape is nearest to its own.
"""

import math
from functools import cache

from maquette.core.specs import SIDE_MULTIPLE
from maquette.pictures.crops import Size

MAX_ASPECT = 2.0
"""Longer side over shorter: bases have hardly seen longer pictures."""


def bucket(picture: Size, asked: Size) -> Size:
    """The bucket whose shape is nearest to a picture's, by the logarithm of the ratio of their aspects."""
    aspect = math.log(picture.width / picture.height)
    return min(buckets(asked), key=lambda size: abs(math.log(size.width / size.height) - aspect))


@cache
def buckets(asked: Size) -> tuple[Size, ...]:
    """The asked size; and for each width the highest that has no more pixels, standing and lying."""
    pixels = asked.width * asked.height
    widths = range(SIDE_MULTIPLE, pixels // SIDE_MULTIPLE + 1, SIDE_MULTIPLE)
    standing = [Size(width, pixels // width // SIDE_MULTIPLE * SIDE_MULTIPLE) for width in widths]
    lying = [Size(size.height, size.width) for size in standing]
    usual = [size for size in (*standing, *lying) if max(size) <= MAX_ASPECT * min(size)]
    return tuple(dict.fromkeys((asked, *usual)))
