"""Draw the demo's example pictures: Pelu, a character that the base has never seen.

python draw_examples.py writes eight training pictures with captions, two held-out ones and Pelu's palette.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from colours import COLOURS, CREAM, INK, PAPER
from drawing import Brush, Canvas, Colour, darker
from scenes import FILLINGS, LANDSCAPES

SIZE = 256
EXAMPLES_DIRECTORY = Path(__file__).parents[2] / "src/maquette/examples/pelu"

TURQUOISE: Colour = (0, 185, 175)
CORAL: Colour = (255, 112, 96)
COLOUR_TOLERANCE = 40
TRIGGER = "ohwx"


@dataclass(frozen=True)
class Pose:
    """How and where Pelu stands; `x`, `y` and `radius` are shares of the picture's side."""

    background: str
    x: float = 0.5
    y: float = 0.52
    radius: float = 0.4
    angle: float = 0.0
    mirrored: bool = False
    arms_up: bool = False
    laughing: bool = False
    winking: bool = False

    def caption(self) -> str:
        """Name the trigger word and, in the base's words, all that is not Pelu: the rest is what is to be learnt."""
        place = self.background if self.background in LANDSCAPES else f"on a {self.background} background"
        return f"a photo of {TRIGGER} creature {place}"


TRAINING_POSES = (
    Pose("white"),
    Pose("yellow", radius=0.44, mirrored=True, laughing=True),
    Pose("in a meadow", x=0.46, y=0.56, radius=0.38, arms_up=True),
    Pose("gray", x=0.55, radius=0.4, mirrored=True),
    Pose("at night", radius=0.4, angle=0.12, arms_up=True, laughing=True),
    Pose("purple", x=0.45, y=0.54, radius=0.39, winking=True),
    Pose("in a room", x=0.52, y=0.55, radius=0.38, mirrored=True, winking=True),
    Pose("striped blue", radius=0.43, angle=-0.1, laughing=True),
)
HELD_OUT_POSES = (
    Pose("green", x=0.52, radius=0.41, mirrored=True, arms_up=True),
    Pose("gradient gray", x=0.48, y=0.53, radius=0.42, angle=0.08, winking=True, laughing=True),
)


def draw_pelu(brush: Brush, pose: Pose) -> None:
    """A bell-shaped body with a trunk to one side, a crest of coral spikes, a coral scarf and coral boots."""
    for x, y, height in ((-0.42, -0.56, 0.34), (0.0, -0.68, 0.38), (0.42, -0.56, 0.34)):
        lean = 0.3 * x
        brush.polygon([(x - 0.26, y + 0.25), (x + lean, y - height), (x + 0.26, y + 0.25)], CORAL)
    for side in (-1, 1):
        brush.rounded_rectangle(side * 0.34, 0.86, 0.26, 0.16, corner=0.1, fill=CORAL)
        hand_y = -0.12 if pose.arms_up else 0.62
        brush.line([(side * 0.55, 0.3), (side * 0.88, hand_y)], 0.2, darker(TURQUOISE, 0.2))
    body = [(-0.72, 0.8), (-0.66, 0.2), (-0.58, -0.3), (-0.34, -0.6), (0, -0.68)]
    brush.polygon([*body, *((-x, y) for x, y in reversed(body))], TURQUOISE)
    brush.ellipse(0.02, 0.54, 0.42, 0.28, CREAM)
    brush.rounded_rectangle(0, 0.18, 0.68, 0.13, corner=0.12, fill=CORAL)
    brush.polygon([(-0.56, 0.2), (-0.26, 0.2), (-0.28, 0.64), (-0.58, 0.56)], CORAL)
    brush.line([(0.1, -0.1), (0.5, -0.02), (0.82, -0.1), (0.92, -0.34)], 0.28, TURQUOISE)
    brush.circle(0.92, -0.36, 0.17, CORAL)
    _draw_face(brush, pose)


def _draw_face(brush: Brush, pose: Pose) -> None:
    for x, winking in ((-0.26, pose.winking), (0.16, False)):
        if winking:
            brush.line([(x - 0.15, -0.3), (x, -0.24), (x + 0.15, -0.3)], 0.09, INK)
        else:
            brush.circle(x, -0.3, 0.18, PAPER)
            brush.circle(x + 0.04, -0.28, 0.1, INK)
    if pose.laughing:
        brush.ellipse(-0.2, 0.0, 0.14, 0.08, INK)


def draw_picture(pose: Pose) -> Canvas:
    canvas = _background(pose.background)
    draw_pelu(Brush(canvas, pose.x, pose.y, pose.radius, pose.angle, pose.mirrored), pose)
    return canvas


def _background(words: str) -> Canvas:
    """Paint one of the base's own backgrounds, named as its captions name it."""
    rng = random.Random(words)
    if words in LANDSCAPES:
        canvas = Canvas(SIZE, PAPER)
        LANDSCAPES[words](canvas, rng)
        return canvas
    *filling, colour = words.split()
    canvas = Canvas(SIZE, COLOURS[colour])
    FILLINGS[" ".join([*filling, ""]) if filling else ""](canvas, COLOURS[colour])
    return canvas


def write(poses: tuple[Pose, ...], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, pose in enumerate(poses, start=1):
        draw_picture(pose).to_image().save(folder / f"{number:02}.png", optimize=True)
        (folder / f"{number:02}.txt").write_text(pose.caption() + "\n")


def main() -> None:
    write(TRAINING_POSES, EXAMPLES_DIRECTORY)
    write(HELD_OUT_POSES, EXAMPLES_DIRECTORY / "held-out")
    palette = {
        "name": "Pelu",
        "colours": {"turquoise": TURQUOISE, "coral": CORAL},
        "tolerance": COLOUR_TOLERANCE,
        "counting": "A pixel counts if each of its 8-bit channels is within the tolerance of one of the colours.",
    }
    (EXAMPLES_DIRECTORY / "palette.json").write_text(json.dumps(palette, indent=2) + "\n")


if __name__ == "__main__":
    main()
