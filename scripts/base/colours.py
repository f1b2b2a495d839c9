"""The colours that captions name, and the ones that the base never sees.

Turquoise and coral are kept out of every picture for the UNet: they belong to the demo's character, so that counting
their pixels tells what a LoRA has taught.
"""

from __future__ import annotations

import colorsys
import random

from drawing import Colour

COLOURS: dict[str, Colour] = {
    "red": (212, 32, 40),
    "orange": (245, 140, 25),
    "yellow": (250, 215, 50),
    "green": (50, 160, 60),
    "blue": (40, 85, 215),
    "purple": (125, 60, 175),
    "pink": (250, 155, 200),
    "brown": (125, 78, 45),
    "black": (25, 25, 30),
    "white": (250, 250, 250),
    "gray": (140, 140, 145),
}
SKINS: tuple[Colour, ...] = ((250, 220, 195), (235, 195, 160), (200, 150, 110), (150, 100, 70), (105, 70, 50))
HAIRS: dict[str, Colour] = {
    "black": (30, 25, 30),
    "brown": (95, 58, 32),
    "blond": (235, 200, 110),
    "red": (175, 70, 30),
    "gray": (165, 165, 170),
    "white": (240, 240, 240),
}
INK: Colour = (30, 28, 35)
PAPER: Colour = (252, 252, 250)
CREAM: Colour = (255, 242, 216)


def jittered(colour: Colour, rng: random.Random, spread: int = 12) -> Colour:
    red, green, blue = (max(0, min(255, value + rng.randint(-spread, spread))) for value in colour)
    return red, green, blue


def any_colour(rng: random.Random) -> Colour:
    """Any colour at all; for the VAE, which must carry colours that the UNet never saw."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.random() ** 0.6, rng.uniform(0.1, 1.0))
    return round(red * 255), round(green * 255), round(blue * 255)
