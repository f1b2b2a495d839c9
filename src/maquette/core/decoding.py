"""Picture files become plain RGB: upright, in sRGB, on a background."""

import io
import struct

from PIL import Image, ImageCms, ImageColor, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
SRGB = ImageCms.createProfile("sRGB")
PROFILED = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "PA": "RGB", "CMYK": "CMYK", "L": "L", "LA": "L"}
"""What the embedded profile speaks of, by the picture's mode: a palette's colours, and never transparency."""


class UnreadablePicture(ValueError):
    """The bytes can't be decoded."""


def decode(data: bytes, background: str) -> Image.Image:
    """Decode a picture file to eight bits of red, green and blue.

    The camera's orientation (EXIF) is carried out, colours are brought from the embedded profile to sRGB, and what is
    transparent shows the background, `#rrggbb`.

    Raises:
        UnreadablePicture: see there.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return _flattened(_as_srgb(_upright(image)), background)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadablePicture(f"the picture can't be read: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn as the camera says; what it says is no reason to refuse a picture whose pixels have been read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow leaves it to chance what a broken block of EXIF raises
        return image


def _as_srgb(image: Image.Image) -> Image.Image:
    """Convert by the embedded colour profile; a profile that can't be read counts as absent."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in PROFILED:
        return image
    mode = PROFILED[image.mode]
    # By way of RGBA: Pillow warns of a palette whose transparency it would drop on the straight one.
    colours = (image.convert("RGBA") if mode == "RGB" else image).convert(mode)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colours, source, SRGB, outputMode="RGB") or colours
    except (ImageCms.PyCMSError, OSError):
        return image
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted


def _flattened(image: Image.Image, background: str) -> Image.Image:
    if image.mode.startswith("I"):
        # Sixteen bits a pixel: Pillow's own conversion would clip instead of scaling.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    foreground = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, ImageColor.getrgb(background))
    return Image.alpha_composite(ground, foreground).convert("RGB")
