"""Pictures and captions: from files to tensors, and the order in which they are trained on."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from maquette.core.lifecycle import Reason
from maquette.core.specs import Picture, Preparation
from maquette.trainer.failures import RunFailed

FORMATS = ("JPEG", "PNG", "WEBP")
WHITE = (255, 255, 255, 255)
SRGB = ImageCms.createProfile("sRGB")


@dataclass(frozen=True)
class Example:
    """One thing to learn from.

    Attributes:
        pixels: (3, height, width), float32 in [-1, 1].
        prompt: what it shows.
    """

    pixels: torch.Tensor
    prompt: str


def read_picture(folder: Path, picture: Picture, preparation: Preparation) -> Image.Image:
    """Decode and prepare one picture: upright, sRGB on white, cropped around the centre, resized.

    Raises:
        RunFailed: the picture can't be decoded; the message names it.
        FileNotFoundError: it was never staged in, which is not the owner's fault.
    """
    data = (folder / picture.name).read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            rgb = _on_white(_as_srgb(upright))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RunFailed(Reason.BAD_DATASET, f"{picture.name}: the picture can't be read: {error}") from error
    size = (preparation.width, preparation.height)
    return ImageOps.fit(rgb, size, Image.Resampling.LANCZOS)


def to_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB picture as (3, height, width), float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    return values.permute(2, 0, 1) / 127.5 - 1


def _as_srgb(image: Image.Image) -> Image.Image:
    """Convert by the embedded colour profile; a profile that can't be read counts as absent."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in {"RGB", "RGBA", "CMYK", "L"}:
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, SRGB, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        return image


def _on_white(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue; transparent parts become white."""
    if image.mode.startswith("I"):
        # Sixteen bits a pixel: Pillow's own conversion would clip instead of scaling.
        return Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    foreground = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), foreground).convert("RGB")


class Shuffle:
    """An endless order over `length` rows: one random permutation after another."""

    def __init__(self, length: int, generator: torch.Generator) -> None:
        self.length = length
        self.generator = generator
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next rows; across the border of two permutations where need be."""
        while len(self.waiting) < count:
            self.waiting += torch.randperm(self.length, generator=self.generator).tolist()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken


def prompts(examples: Iterable[Example]) -> list[str]:
    """The examples' prompts, in their order."""
    return [example.prompt for example in examples]
