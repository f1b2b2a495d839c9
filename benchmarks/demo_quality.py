"""Does the demo's LoRA draw its character? Counted over eight fixed seeds, and measured on two held-out pictures.

    make demo && python benchmarks/demo_quality.py --demo demo

Two figures, each with a bar; the exit status says whether both were met:

- Pixels in the character's signature colours, with the LoRA and without it, same prompt and seeds.
- The denoising loss on two pictures of the character that the training never saw, with the same noise and timesteps.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from machine import machine
from maquette.bases.catalogue import BUNDLED_BASE, BUNDLED_PATH
from maquette.cli.contact_sheet import Row, draw_sheet
from maquette.cli.demo import CHARACTER, DRAW_STEPS, GUIDANCE_SCALE, SETTING, SIDE
from maquette.core.drawing import DrawRequest
from maquette.families.base import Adapters, Family, Pipeline, load_family
from maquette.testing.factories import training_spec

Result = TypeVar("Result")

SEEDS = range(101, 109)
PALETTE_BAR = 100.0
LOSS_BAR = 0.30
LOSS_DRAWS = 128
"""Noise and timestep drawn so often for each held-out picture."""
RESULT = Path(__file__).parent / "results" / "demo_quality.json"
EXAMPLES = Path(__file__).parent.parent / "src/maquette/examples" / CHARACTER


def main() -> int:
    """Measure, print, write `quality.json` and a sheet beside the LoRA; 0 if both bars were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder that `maquette demo` wrote")
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RESULT.parent.name}/ as well")
    arguments = parser.parse_args()
    folder: Path = arguments.demo
    weights = newest_lora(folder)

    assert BUNDLED_BASE.family is not None
    family = load_family(BUNDLED_BASE.family)
    pipeline = family.pipeline.load(BUNDLED_PATH, torch.device("cpu"))
    adapters = family.adapters(pipeline)
    before, after = both(adapters, weights, lambda: draw_all(pipeline))
    loss_before, loss_after = both(adapters, weights, lambda: held_out_loss(family, pipeline))

    pixels_before, pixels_after = count_all(before), count_all(after)
    ratio = sum(pixels_after) / max(1, sum(pixels_before))
    drop = 1 - loss_after / loss_before
    figures = {
        "machine": machine("torch", "diffusers", "peft"),
        "lora": weights.name,
        "pixels_without": pixels_before,
        "pixels_with": pixels_after,
        "pixel_ratio": ratio,
        "loss_without": loss_before,
        "loss_with": loss_after,
        "loss_drop": drop,
    }
    write_sheet(before, after, folder / "quality.png")
    for target in (folder / "quality.json", *((RESULT,) if arguments.record else ())):
        target.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"pixels in the palette, per seed   without {pixels_before}   with {pixels_after}")
    print(f"ratio of their sums               {ratio:.1f}   (bar {PALETTE_BAR})")
    print(f"held-out denoising loss           without {loss_before:.4f}   with {loss_after:.4f}")
    print(f"drop                              {drop:.1%}   (bar {LOSS_BAR:.0%})")
    return 0 if ratio >= PALETTE_BAR and drop >= LOSS_BAR else 1


def newest_lora(folder: Path) -> Path:
    """The LoRA that was trained last; its name carries the time."""
    found = sorted(folder.glob("model_*.safetensors"))
    if not found:
        sys.exit(f"{folder} holds no LoRA; run `make demo` first")
    return found[-1]


def both(adapters: Adapters, weights: Path, measure: Callable[[], Result]) -> tuple[Result, Result]:
    """A measurement without, then with the LoRA."""
    adapters.activate(())
    without = measure()
    adapters.activate([(adapters.read(str(weights)), 1.0)])
    return without, measure()


def draw_all(pipeline: Pipeline) -> list[Image.Image]:
    """One picture a seed, of the prompt that was trained."""
    return [
        pipeline.draw(
            DrawRequest(
                prompt=str(SETTING.instance_prompt),
                width=SIDE,
                height=SIDE,
                steps=DRAW_STEPS,
                guidance_scale=GUIDANCE_SCALE,
                seed=seed,
            )
        )
        for seed in SEEDS
    ]


@torch.no_grad()
def held_out_loss(family: Family, pipeline: Pipeline) -> float:
    """Mean denoising loss on the held-out pictures with their captions; noise and timesteps are the same each time."""
    paths = held_out()
    pictures = [Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS) for path in paths]
    pixels = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures])
    posterior = pipeline.encode_pictures(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    conditioning = pipeline.encode_prompts([path.with_suffix(".txt").read_text().strip() for path in paths])
    objective = family.objective(pipeline, training_spec().settings)
    random = torch.Generator().manual_seed(1)
    draws = [objective.noising(posterior.mean, random) for _ in range(LOSS_DRAWS)]
    losses = [objective.losses(posterior.mean, conditioning, noising).mean() for noising in draws]
    return float(torch.stack(losses).mean())


def held_out() -> list[Path]:
    """The character's pictures that no training sees."""
    return sorted((EXAMPLES / "held-out").glob("*.png"))


def count_all(pictures: Sequence[Image.Image]) -> list[int]:
    """Pixels of each picture that are in the character's palette."""
    palette = json.loads((EXAMPLES / "palette.json").read_text())
    colours = np.array(list(palette["colours"].values()))
    return [count(np.asarray(picture, dtype=np.int16), colours, palette["tolerance"]) for picture in pictures]


def count(pixels: NDArray[np.int16], colours: NDArray[np.int_], tolerance: int) -> int:
    """Pixels, of (height, width, 3), each of whose channels is within the tolerance of one of the colours (n, 3)."""
    distance = np.abs(pixels[:, :, None, :] - colours).max(axis=-1)
    return int((distance <= tolerance).any(axis=-1).sum())


def write_sheet(before: Sequence[Image.Image], after: Sequence[Image.Image], target: Path) -> None:
    """All pictures side by side, a column a seed."""
    with tempfile.TemporaryDirectory() as folder:

        def saved(name: str, pictures: Sequence[Image.Image]) -> list[Path]:
            paths = [Path(folder) / f"{name}-{index}.png" for index in range(len(pictures))]
            for path, picture in zip(paths, pictures, strict=True):
                picture.save(path)
            return paths

        rows = [Row("base", saved("before", before)), Row("with LoRA", saved("after", after))]
        draw_sheet([f"seed {seed}" for seed in SEEDS], rows, target)


if __name__ == "__main__":
    sys.exit(main())
