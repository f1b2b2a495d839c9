"""What the base's pictures show: twelve shapes, eight kinds of creature, and people.

A shape is a function; creatures and people are small records of their traits, which draw themselves and tell their
captions what can be said about them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from colours import INK, PAPER
from drawing import Brush, Colour, arc_points, darker, lighter, star_points

# ---------------------------------------------------------------------------------------------------------- shapes


def _circle(brush: Brush, colour: Colour) -> None:
    brush.circle(0, 0, 0.9, colour)


def _square(brush: Brush, colour: Colour) -> None:
    brush.rectangle(0, 0, 0.8, 0.8, colour)


def _triangle(brush: Brush, colour: Colour) -> None:
    brush.polygon([(0, -0.9), (0.95, 0.8), (-0.95, 0.8)], colour)


def _star(brush: Brush, colour: Colour) -> None:
    brush.polygon(star_points(5, 0.42), colour)


def _heart(brush: Brush, colour: Colour) -> None:
    brush.circle(-0.46, -0.32, 0.5, colour)
    brush.circle(0.46, -0.32, 0.5, colour)
    brush.polygon([(-0.88, -0.06), (0, -0.4), (0.88, -0.06), (0, 0.95)], colour)


def _diamond(brush: Brush, colour: Colour) -> None:
    brush.polygon([(0, -1), (0.68, 0), (0, 1), (-0.68, 0)], colour)


def _cross(brush: Brush, colour: Colour) -> None:
    brush.rectangle(0, 0, 0.9, 0.3, colour)
    brush.rectangle(0, 0, 0.3, 0.9, colour)


def _ring(brush: Brush, colour: Colour) -> None:
    brush.arc(0, 0, 0.7, 0.7, span=(0, math.tau), width=0.36, fill=colour)


def _moon(brush: Brush, colour: Colour) -> None:
    back = arc_points(-0.1, 0, 0.9, 0.9, (math.tau / 6, math.tau * 5 / 6))
    hollow = arc_points(0.35, 0, 0.72, 0.78, (math.tau * 3 / 4, math.tau / 4))
    brush.polygon(back + hollow, colour)


def _flower(brush: Brush, colour: Colour) -> None:
    for petal in range(6):
        turn = math.tau * petal / 6
        brush.circle(0.55 * math.cos(turn), 0.55 * math.sin(turn), 0.36, colour)
    brush.circle(0, 0, 0.34, (250, 225, 120) if colour[2] > 90 or colour[1] < 150 else (120, 75, 45))


def _tree(brush: Brush, colour: Colour) -> None:
    brush.rectangle(0, 0.65, 0.16, 0.35, (110, 70, 40))
    for x, y, radius in ((-0.38, 0.02, 0.42), (0.38, 0.02, 0.42), (0, -0.4, 0.5), (0, 0.05, 0.42)):
        brush.circle(x, y, radius, colour)


def _house(brush: Brush, colour: Colour) -> None:
    brush.rectangle(0, 0.38, 0.7, 0.52, colour)
    brush.polygon([(-0.95, -0.12), (0, -0.95), (0.95, -0.12)], darker(colour, 0.45))
    brush.rectangle(0.3, 0.6, 0.18, 0.3, darker(colour, 0.65))
    brush.rectangle(-0.3, 0.3, 0.18, 0.18, lighter(colour, 0.75))


SHAPES: dict[str, Callable[[Brush, Colour], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "flower": _flower,
    "tree": _tree,
    "house": _house,
}

# ------------------------------------------------------------------------------------------------------- creatures


@dataclass(frozen=True)
class Creature:
    """A drawn creature; `body` fills it, `accent` is its belly, ears' insides, fins or horns."""

    species: str
    body: Colour
    accent: Colour
    big_ears: bool
    long_tail: bool
    horns: bool
    antennae: bool
    one_eye: bool
    mouth: str
    glasses: bool

    def draw(self, brush: Brush) -> None:
        _SPECIES[self.species](self, brush)

    def traits(self) -> list[str]:
        """Return what a caption may say of it after "with"."""
        said = {
            "big ears": self.big_ears,
            "a long tail": self.long_tail,
            "horns": self.horns,
            "antennae": self.antennae,
            "one eye": self.one_eye,
            "glasses": self.glasses,
            "a big smile": self.mouth == "smile",
            "an open mouth": self.mouth == "open",
        }
        return [words for words, true in said.items() if true]


def random_creature(rng: random.Random, body: Colour, accent: Colour) -> Creature:
    species = rng.choice(list(_SPECIES))
    eared, tailed = species in ("cat", "rabbit", "mouse", "bear"), species in ("cat", "mouse", "monster")
    topped = species in ("monster", "robot")
    horns = topped and rng.random() < 0.35
    return Creature(
        species=species,
        body=body,
        accent=accent,
        big_ears=eared and rng.random() < 0.4,
        long_tail=tailed and rng.random() < 0.4,
        horns=horns,
        antennae=topped and not horns and rng.random() < 0.5,
        one_eye=species in ("monster", "robot") and rng.random() < 0.3,
        mouth=rng.choice(("plain", "plain", "smile", "open")),
        glasses=species not in ("fish", "bird") and rng.random() < 0.12,
    )


def _creature_face(creature: Creature, brush: Brush) -> None:
    """Draw eyes and mouth on a head that reaches about 0.6 around the brush's middle."""
    if creature.one_eye:
        _eye(brush, 0, -0.1, 0.26)
    else:
        _eye(brush, -0.26, -0.1, 0.17)
        _eye(brush, 0.26, -0.1, 0.17)
    if creature.glasses:
        _glasses(brush, -0.1, 0.26, 0.24)
    _mouth(brush, creature.mouth, 0.25)


def _eye(brush: Brush, x: float, y: float, radius: float) -> None:
    brush.circle(x, y, radius, PAPER)
    brush.circle(x, y + 0.1 * radius, radius * 0.55, INK)


def _glasses(brush: Brush, y: float, apart: float, radius: float) -> None:
    for side in (-1, 1):
        brush.arc(side * apart, y, radius, radius, span=(0, math.tau), width=0.09, fill=INK)


def _mouth(brush: Brush, mouth: str, y: float) -> None:
    if mouth == "smile":
        brush.arc(0, y - 0.12, 0.36, 0.26, span=(0.1 * math.pi, 0.9 * math.pi), width=0.1, fill=INK)
    elif mouth == "open":
        brush.ellipse(0, y + 0.06, 0.2, 0.16, (120, 30, 40))
    else:
        brush.line([(-0.14, y), (0.14, y)], 0.09, INK)


def _feet(brush: Brush, colour: Colour, y: float = 0.86) -> None:
    for side in (-1, 1):
        brush.ellipse(side * 0.32, y, 0.24, 0.13, colour)


def _tail(creature: Creature, brush: Brush) -> None:
    if creature.long_tail:
        brush.line([(0.3, 0.7), (0.75, 0.65), (0.95, 0.3), (0.88, -0.05)], 0.15, darker(creature.body, 0.15))


def _monster(creature: Creature, brush: Brush) -> None:
    _tail(creature, brush)
    _top(creature, brush, -0.5)
    _feet(brush, darker(creature.body))
    for side in (-1, 1):
        brush.line([(side * 0.55, 0.2), (side * 0.92, 0.05)], 0.18, darker(creature.body, 0.15))
    brush.ellipse(0, 0.12, 0.7, 0.75, creature.body)
    brush.ellipse(0, 0.5, 0.38, 0.3, creature.accent)
    _creature_face(creature, brush.at(0, -0.08))


def _robot(creature: Creature, brush: Brush) -> None:
    _top(creature, brush, -0.7)
    for side in (-1, 1):
        brush.rectangle(side * 0.26, 0.86, 0.13, 0.12, darker(creature.body, 0.45))
        brush.rectangle(side * 0.72, 0.42, 0.1, 0.26, darker(creature.body, 0.3))
    brush.rounded_rectangle(0, 0.48, 0.58, 0.34, corner=0.08, fill=darker(creature.body, 0.15))
    brush.rectangle(0, 0.5, 0.3, 0.16, creature.accent)
    brush.rounded_rectangle(0, -0.3, 0.66, 0.44, corner=0.12, fill=creature.body)
    _creature_face(creature, brush.at(0, -0.28, 0.95))


def _top(creature: Creature, brush: Brush, y: float) -> None:
    for side in (-1, 1):
        if creature.horns:
            brush.polygon([(side * 0.2, y + 0.12), (side * 0.52, y + 0.2), (side * 0.58, y - 0.32)], creature.accent)
        if creature.antennae:
            brush.line([(side * 0.2, y + 0.1), (side * 0.34, y - 0.28)], 0.08, INK)
            brush.circle(side * 0.34, y - 0.3, 0.12, creature.accent)


def _cat(creature: Creature, brush: Brush) -> None:
    tall = 1.25 if creature.big_ears else 0.9
    _sitting_body(creature, brush)
    for side in (-1, 1):
        ear = [(side * 0.1, -0.55), (side * 0.58, -0.3), (side * 0.55, -0.25 - 0.7 * tall)]
        brush.polygon(ear, creature.body)
        brush.polygon([(x * 0.88 + side * 0.04, y * 0.9 - 0.02) for x, y in ear], creature.accent)
    brush.ellipse(0, -0.22, 0.62, 0.52, creature.body)
    for side in (-1, 1):
        brush.line([(side * 0.42, 0.02), (side * 0.8, -0.04)], 0.05, darker(creature.body, 0.5))
    _creature_face(creature, brush.at(0, -0.2, 0.9))


def _rabbit(creature: Creature, brush: Brush) -> None:
    wide = 0.24 if creature.big_ears else 0.15
    _sitting_body(creature, brush)
    for side in (-1, 1):
        brush.ellipse(side * 0.27, -0.68, wide, 0.4, creature.body, angle=side * 0.15)
        brush.ellipse(side * 0.27, -0.66, wide * 0.5, 0.28, creature.accent, angle=side * 0.15)
    brush.ellipse(0, -0.12, 0.52, 0.46, creature.body)
    _creature_face(creature, brush.at(0, -0.12, 0.82))


def _mouse(creature: Creature, brush: Brush) -> None:
    ear = 0.42 if creature.big_ears else 0.28
    _sitting_body(creature, brush)
    for side in (-1, 1):
        brush.circle(side * 0.55, -0.55, ear, creature.body)
        brush.circle(side * 0.55, -0.55, ear * 0.6, creature.accent)
    brush.ellipse(0, -0.18, 0.56, 0.5, creature.body)
    _creature_face(creature, brush.at(0, -0.22, 0.85))
    brush.circle(0, -0.06, 0.09, INK)


def _bear(creature: Creature, brush: Brush) -> None:
    ear = 0.32 if creature.big_ears else 0.2
    _sitting_body(creature, brush)
    for side in (-1, 1):
        brush.circle(side * 0.48, -0.62, ear, creature.body)
    brush.circle(0, -0.22, 0.6, creature.body)
    brush.ellipse(0, 0.04, 0.34, 0.26, creature.accent)
    _creature_face(creature, brush.at(0, -0.25, 0.85))


def _sitting_body(creature: Creature, brush: Brush) -> None:
    _tail(creature, brush)
    brush.ellipse(0, 0.55, 0.5, 0.42, creature.body)
    brush.ellipse(0, 0.6, 0.27, 0.28, creature.accent)
    _feet(brush, darker(creature.body, 0.2))


def _bird(creature: Creature, brush: Brush) -> None:
    for x in (-0.15, 0.15):
        brush.line([(x, 0.55), (x, 0.95)], 0.09, darker(creature.accent, 0.3))
    brush.polygon([(-0.45, 0.2), (-0.98, -0.08), (-0.92, 0.4)], darker(creature.body, 0.25))
    brush.ellipse(-0.05, 0.2, 0.62, 0.48, creature.body)
    brush.circle(0.32, -0.35, 0.42, creature.body)
    brush.polygon([(0.68, -0.48), (1.0, -0.3), (0.68, -0.16)], creature.accent)
    brush.ellipse(-0.2, 0.18, 0.36, 0.24, darker(creature.body, 0.3), angle=0.3)
    _eye(brush, 0.4, -0.42, 0.16)


def _fish(creature: Creature, brush: Brush) -> None:
    brush.polygon([(-0.4, 0), (-0.95, -0.48), (-0.85, 0), (-0.95, 0.48)], creature.accent)
    brush.polygon([(-0.2, -0.35), (0.15, -0.78), (0.35, -0.35)], creature.accent)
    brush.ellipse(0.15, 0, 0.75, 0.5, creature.body)
    brush.polygon([(-0.12, 0.05), (0.2, 0.12), (-0.1, 0.38)], creature.accent)
    _eye(brush, 0.52, -0.12, 0.17)
    brush.line([(0.68, 0.2), (0.84, 0.14)], 0.07, INK)


_SPECIES: dict[str, Callable[[Creature, Brush], None]] = {
    "monster": _monster,
    "robot": _robot,
    "cat": _cat,
    "rabbit": _rabbit,
    "mouse": _mouse,
    "bear": _bear,
    "bird": _bird,
    "fish": _fish,
}

# ---------------------------------------------------------------------------------------------------------- people


@dataclass(frozen=True)
class Person:
    """Head and shoulders of a person."""

    noun: str
    skin: Colour
    hair: Colour
    hair_name: str
    hair_style: str
    shirt: Colour
    shirt_name: str
    hat: Colour
    hat_name: str
    glasses: bool
    beard: bool
    mouth: str

    def draw(self, brush: Brush) -> None:
        if self.hair_style == "long":
            brush.rounded_rectangle(0, 0.0, 0.62, 0.66, corner=0.4, fill=self.hair)
        if self.hair_style == "curly":
            for x, y in (
                (-0.5, -0.1),
                (0.5, -0.1),
                (-0.56, -0.4),
                (0.56, -0.4),
                (-0.3, -0.72),
                (0.3, -0.72),
                (0, -0.8),
            ):
                brush.circle(x, y, 0.24, self.hair)
        brush.polygon(arc_points(0, 1.1, 0.85, 0.62, (math.pi, math.tau)), self.shirt)
        brush.rectangle(0, 0.42, 0.18, 0.22, darker(self.skin, 0.12))
        brush.ellipse(0, -0.12, 0.48, 0.56, self.skin)
        if self.beard:
            brush.polygon(arc_points(0, -0.12, 0.49, 0.58, (0.1 * math.pi, 0.9 * math.pi)), self.hair)
        if self.hair_style != "no":
            brush.polygon(arc_points(0, -0.3, 0.52, 0.48, (math.pi, math.tau)), self.hair)
        if self.hat_name:
            brush.rounded_rectangle(0, -0.72, 0.4, 0.26, corner=0.06, fill=self.hat)
            brush.rounded_rectangle(0, -0.47, 0.68, 0.09, corner=0.08, fill=self.hat)
        self._draw_face(brush)

    def _draw_face(self, brush: Brush) -> None:
        for side in (-1, 1):
            brush.circle(side * 0.2, -0.14, 0.07, INK)
            if self.glasses:
                brush.arc(side * 0.21, -0.14, 0.16, 0.15, span=(0, math.tau), width=0.07, fill=INK)
        if self.mouth == "smile":
            brush.arc(0, 0.1, 0.2, 0.14, span=(0.1 * math.pi, 0.9 * math.pi), width=0.08, fill=(165, 50, 55))
        else:
            brush.line([(-0.12, 0.2), (0.12, 0.2)], 0.08, (165, 50, 55))

    def traits(self) -> list[str]:
        hair = "no hair" if self.hair_style == "no" else f"{self.hair_style} {self.hair_name} hair"
        traits = [hair.replace("short ", ""), f"a {self.shirt_name} shirt"]
        if self.glasses:
            traits.append("glasses")
        if self.beard:
            traits.append("a beard")
        if self.hat_name:
            traits.append(f"a {self.hat_name} hat")
        if self.mouth == "smile":
            traits.append("a smile")
        return traits
