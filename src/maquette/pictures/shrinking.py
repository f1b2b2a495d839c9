"""Small copies of pictures, for whoever looks at them as a whole."""

from PIL import Image

GAP = 2.0
"""How much larger than wanted a picture may be when it is resampled; before that whole blocks are averaged, faster."""


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side has at most `side` pixels; one that has fewer keeps its size."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=GAP)
