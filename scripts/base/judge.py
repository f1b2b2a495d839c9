"""Measure how well the base obeys its prompts: python judge.py [--base DIR] [--sheet FILE].

Draws each shape in several colours on several backgrounds with fixed seeds, and reads the pictures back: the
background's colour off the frame, the subject's colour and outline off everything that differs from it. It also
reports how faithfully the VAE alone carries the example pictures, none of which it was trained on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from colours import COLOURS
from diffusers import StableDiffusionPipeline
from draw_examples import EXAMPLES_DIRECTORY
from drawing import Brush, Canvas
from export import BASE_DIRECTORY
from models import RESOLUTION
from PIL import Image
from subjects import SHAPES
from training import as_tensor, psnr

STEPS = 25
GUIDANCE = 5.0
_BATCH = 12
_FRAME = 5  # pixels at each side that only the background fills
_MASK_SIZE = 48
_PAIRS = (("red", "blue"), ("yellow", "purple"), ("green", "white"), ("blue", "orange"), ("white", "black"))
_PROMPTS_PER_SHAPE = 4


@dataclass(frozen=True)
class Reading:
    """What a picture shows, in the captions' words."""

    shape: str
    colour: str
    background: str

    def prompt(self) -> str:
        return f"a {self.colour} {self.shape} on a {self.background} background".replace("a orange", "an orange")


def asked_for() -> list[Reading]:
    return [
        Reading(shape, *_PAIRS[(number + turn) % len(_PAIRS)])
        for number, shape in enumerate(SHAPES)
        for turn in range(_PROMPTS_PER_SHAPE)
    ]


def draw(pipeline: StableDiffusionPipeline, prompts: list[str]) -> list[Image.Image]:
    """Draw a picture a prompt; its seed is its number."""
    pictures: list[Image.Image] = []
    for first in range(0, len(prompts), _BATCH):
        batch = prompts[first : first + _BATCH]
        generators = [torch.Generator().manual_seed(first + number) for number in range(len(batch))]
        drawn = pipeline(batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators)
        pictures += drawn.images
    return pictures


# --------------------------------------------------------------------------------------------------------- reading


def read(picture: Image.Image, templates: dict[str, np.ndarray]) -> Reading:
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    frame = np.concatenate([pixels[:_FRAME].reshape(-1, 3), pixels[-_FRAME:].reshape(-1, 3)])
    background = np.median(frame, axis=0)
    mask = np.abs(pixels - background).max(axis=2) > 50
    if mask.sum() < 40:
        return Reading("nothing", "none", _nearest_colour(background))
    names, counts = np.unique([_nearest_colour(pixel) for pixel in pixels[mask][::7]], return_counts=True)
    outline = _normalised(mask)
    shape = max(templates, key=lambda name: _overlap(outline, templates[name]))
    return Reading(shape, str(names[counts.argmax()]), _nearest_colour(background))


def shape_templates() -> dict[str, np.ndarray]:
    templates = {}
    for name, shape in SHAPES.items():
        canvas = Canvas(RESOLUTION, (255, 255, 255))
        shape(Brush(canvas, radius=0.4), (0, 0, 0))
        templates[name] = _normalised(canvas.to_array().mean(axis=2) < 230)
    return templates


def _normalised(mask: np.ndarray) -> np.ndarray:
    """Cut a mask [height, width] to what it covers and scale that to a fixed square, its proportions kept."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(cut.shape)
    square = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut * 255
    return np.asarray(Image.fromarray(square).resize((_MASK_SIZE, _MASK_SIZE), Image.Resampling.BOX)) > 127


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def _nearest_colour(pixel: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: np.square(np.asarray(COLOURS[name]) - pixel).sum())


# ------------------------------------------------------------------------------------------------------- reporting


@torch.no_grad()
def examples_psnr(pipeline: StableDiffusionPipeline) -> float:
    files = sorted(EXAMPLES_DIRECTORY.rglob("*.png"))
    size = (RESOLUTION, RESOLUTION)
    pictures = as_tensor(
        np.stack([Image.open(file).convert("RGB").resize(size, Image.Resampling.BOX) for file in files])
    )
    return psnr(pipeline.vae.decode(pipeline.vae.encode(pictures).latent_dist.mean).sample, pictures)


def contact_sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (RESOLUTION + 2), rows * (RESOLUTION + 2)), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * (RESOLUTION + 2), row * (RESOLUTION + 2)))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=BASE_DIRECTORY)
    parser.add_argument("--sheet", type=Path, help="where to save the drawn pictures, side by side")
    arguments = parser.parse_args()

    pipeline = StableDiffusionPipeline.from_pretrained(
        arguments.base, dtype=torch.float32, safety_checker=None, feature_extractor=None, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    wanted, templates = asked_for(), shape_templates()
    pictures = draw(pipeline, [reading.prompt() for reading in wanted])
    seen = [read(picture, templates) for picture in pictures]
    pairs = list(zip(wanted, seen, strict=True))
    for part in ("shape", "colour", "background"):
        share = np.mean([getattr(asked, part) == getattr(got, part) for asked, got in pairs])
        print(f"{part}: {share:.0%}")
    print(f"all three: {np.mean([asked == got for asked, got in pairs]):.0%} of {len(pairs)} pictures")
    print(f"VAE on the example pictures: {examples_psnr(pipeline):.1f} dB")
    if arguments.sheet:
        contact_sheet(pictures, columns=12).save(arguments.sheet)


if __name__ == "__main__":
    main()
