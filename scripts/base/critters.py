"""Creatures of no known kind: random outlines with random crests, limbs, clothes and markings.

They teach the base that a creature can be put together from any parts, so that eight pictures of a new one are enough
to learn which. The demo's character is not among them: its outline, its trunk and its two colours appear in none.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from colours import INK, PAPER
from drawing import Brush, Colour, Point, arc_points, darker, lighter

_OUTLINES: dict[str, tuple[Point, ...]] = {  # the right half, from the top down
    "egg": ((0, -0.72), (0.3, -0.64), (0.5, -0.4), (0.6, 0), (0.58, 0.4), (0.42, 0.72), (0, 0.82)),
    "pear": ((0, -0.74), (0.26, -0.68), (0.38, -0.42), (0.44, -0.1), (0.66, 0.28), (0.6, 0.66), (0.3, 0.82), (0, 0.84)),
    "box": ((0, -0.66), (0.5, -0.66), (0.58, -0.58), (0.58, 0.7), (0.5, 0.8), (0, 0.8)),
    "drop": ((0, -0.95), (0.16, -0.6), (0.42, -0.2), (0.6, 0.25), (0.52, 0.62), (0.28, 0.8), (0, 0.84)),
    "column": ((0, -0.8), (0.24, -0.74), (0.36, -0.56), (0.38, 0.8), (0, 0.8)),
    "mushroom": ((0, -0.76), (0.42, -0.66), (0.68, -0.3), (0.66, 0.0), (0.4, 0.08), (0.42, 0.8), (0, 0.8)),
    "ball": ((0, -0.6), (0.4, -0.5), (0.66, -0.2), (0.74, 0.14), (0.64, 0.52), (0.4, 0.74), (0, 0.82)),
}
_CRESTS = ("none", "spikes", "tuft", "fin", "horns", "ears", "round ears", "antennae", "crown")
_NECKS = ("none", "none", "scarf", "belt", "bow", "collar")
_FEET = ("none", "boots", "paws", "legs")
_BELLIES = ("none", "round", "round", "bib")
_MARKINGS = ("none", "none", "none", "spots", "stripes")
_NOSES = ("none", "none", "button", "beak", "snout")
_MOUTHS = ("none", "line", "smile", "open")
_TAILS = ("none", "none", "long", "round")


@dataclass(frozen=True)
class Critter:
    """A made-up creature; `body` fills it, `accent` its crest and clothes, `belly` its front."""

    body: Colour
    accent: Colour
    belly: Colour
    outline: str
    crest: str
    crest_count: int
    arms: tuple[float, float] | None
    """How far the left and the right hand reach down, or no arms."""
    feet: str
    neck: str
    front: str
    marking: str
    nose: str
    mouth: str
    tail: str
    eyes: int
    eye_radius: float
    eye_y: float
    gaze: float
    winking: bool

    def traits(self) -> list[str]:
        """Return what a caption may say of it after "with"."""
        said = {
            "spikes": self.crest == "spikes",
            "horns": self.crest == "horns",
            "antennae": self.crest == "antennae",
            "big ears": self.crest in ("ears", "round ears"),
            "a crown": self.crest == "crown",
            "a scarf": self.neck == "scarf",
            "a bow": self.neck == "bow",
            "boots": self.feet == "boots",
            "spots": self.marking == "spots",
            "stripes": self.marking == "stripes",
            "a beak": self.nose == "beak",
            "a long tail": self.tail == "long",
            "one eye": self.eyes == 1,
            "a big smile": self.mouth == "smile",
            "an open mouth": self.mouth == "open",
        }
        return [words for words, true in said.items() if true]

    def draw(self, brush: Brush) -> None:
        self._draw_tail(brush)
        self._draw_crest(brush)
        self._draw_feet(brush)
        self._draw_arms(brush)
        half = _OUTLINES[self.outline]
        brush.polygon([*half, *((-x, y) for x, y in reversed(half))], self.body)
        self._draw_front(brush)
        self._draw_neck(brush)
        self._draw_face(brush)

    def _draw_tail(self, brush: Brush) -> None:
        if self.tail == "long":
            brush.line([(0.3, 0.7), (0.78, 0.66), (0.96, 0.3), (0.86, 0.02)], 0.15, darker(self.body, 0.15))
        elif self.tail == "round":
            brush.circle(0.66, 0.6, 0.2, self.accent)

    def _draw_crest(self, brush: Brush) -> None:
        top = _OUTLINES[self.outline][0][1]
        places = [2 * step / max(1, self.crest_count - 1) - 1 for step in range(self.crest_count)]
        if self.crest == "spikes":
            for place in places:
                x, y = 0.42 * place, top + 0.18 * place * place
                brush.polygon([(x - 0.16, y + 0.2), (x * 1.3, y - 0.32), (x + 0.16, y + 0.2)], self.accent)
        elif self.crest == "tuft":
            for place in places:
                brush.circle(0.26 * place, top + 0.12 * place * place, 0.19, self.accent)
        elif self.crest == "fin":
            brush.polygon([(-0.3, top + 0.3), (0.1, top - 0.35), (0.3, top + 0.3)], self.accent)
        elif self.crest == "crown":
            teeth = [(-0.3, top + 0.1), (-0.34, top - 0.26), (-0.15, top - 0.08), (0, top - 0.3)]
            brush.polygon([*teeth, *((-x, y) for x, y in reversed(teeth[:-1]))], self.accent)
        else:
            for side in (-1, 1):
                self._draw_pair_on_top(brush, side, top)

    def _draw_pair_on_top(self, brush: Brush, side: int, top: float) -> None:
        if self.crest == "horns":
            brush.polygon([(side * 0.12, top + 0.16), (side * 0.44, top + 0.3), (side * 0.52, top - 0.28)], self.accent)
        elif self.crest == "ears":
            brush.ellipse(side * 0.28, top - 0.02, 0.15, 0.36, self.body, angle=side * 0.3)
            brush.ellipse(side * 0.28, top - 0.02, 0.07, 0.24, self.accent, angle=side * 0.3)
        elif self.crest == "round ears":
            brush.circle(side * 0.42, top + 0.14, 0.26, self.body)
            brush.circle(side * 0.42, top + 0.14, 0.14, self.accent)
        elif self.crest == "antennae":
            brush.line([(side * 0.14, top + 0.1), (side * 0.32, top - 0.24)], 0.08, darker(self.body, 0.5))
            brush.circle(side * 0.32, top - 0.24, 0.12, self.accent)

    def _draw_feet(self, brush: Brush) -> None:
        for side in (-1, 1):
            if self.feet == "boots":
                brush.rounded_rectangle(side * 0.28, 0.86, 0.2, 0.13, corner=0.08, fill=self.accent)
            elif self.feet == "paws":
                brush.ellipse(side * 0.3, 0.84, 0.22, 0.12, darker(self.body, 0.25))
            elif self.feet == "legs":
                brush.line([(side * 0.2, 0.7), (side * 0.24, 0.96)], 0.13, darker(self.body, 0.25))

    def _draw_arms(self, brush: Brush) -> None:
        if self.arms is None:
            return
        for side, hand_y in zip((-1, 1), self.arms, strict=True):
            brush.line([(side * 0.42, 0.2), (side * 0.86, hand_y)], 0.18, darker(self.body, 0.15))

    def _draw_front(self, brush: Brush) -> None:
        if self.marking == "spots":
            for x, y, radius in ((-0.3, 0.62, 0.1), (0.32, 0.5, 0.12), (-0.36, 0.16, 0.09), (0.3, 0.06, 0.08)):
                brush.circle(x, y, radius, darker(self.body, 0.35))
        elif self.marking == "stripes":
            for y in (0.3, 0.5, 0.7):
                brush.rectangle(0, y, 0.38, 0.05, darker(self.body, 0.35))
        elif self.front == "round":
            brush.ellipse(0, 0.48, 0.34, 0.27, self.belly)
        elif self.front == "bib":
            brush.polygon([(-0.24, 0.2), (0.24, 0.2), (0.3, 0.74), (-0.3, 0.74)], self.belly)

    def _draw_neck(self, brush: Brush) -> None:
        if self.neck == "scarf":
            brush.rounded_rectangle(0, 0.14, 0.56, 0.1, corner=0.1, fill=self.accent)
            brush.polygon([(0.14, 0.16), (0.36, 0.16), (0.4, 0.56), (0.18, 0.6)], self.accent)
        elif self.neck == "belt":
            brush.rectangle(0, 0.36, 0.54, 0.08, self.accent)
            brush.rectangle(0, 0.36, 0.1, 0.1, lighter(self.accent, 0.7))
        elif self.neck == "bow":
            for side in (-1, 1):
                brush.polygon([(0, 0.2), (side * 0.32, 0.06), (side * 0.32, 0.34)], self.accent)
        elif self.neck == "collar":
            brush.ellipse(0, 0.16, 0.5, 0.13, self.accent)

    def _draw_face(self, brush: Brush) -> None:
        apart = 0 if self.eyes == 1 else self.eye_radius * 1.25
        for side in (0,) if self.eyes == 1 else (-1, 1):
            x = side * apart
            if self.winking and side == -1:
                brush.line([(x - 0.13, self.eye_y), (x, self.eye_y + 0.06), (x + 0.13, self.eye_y)], 0.08, INK)
                continue
            brush.circle(x, self.eye_y, self.eye_radius, PAPER)
            brush.circle(x + self.gaze * self.eye_radius, self.eye_y + 0.02, self.eye_radius * 0.55, INK)
        below = self.eye_y + self.eye_radius + 0.08
        if self.nose == "button":
            brush.circle(0, below, 0.09, INK)
        elif self.nose == "beak":
            brush.polygon([(-0.16, below - 0.08), (0.16, below - 0.08), (0, below + 0.18)], self.accent)
        elif self.nose == "snout":
            brush.ellipse(0, below + 0.02, 0.24, 0.15, self.belly)
        self._draw_mouth(brush, below + 0.16)

    def _draw_mouth(self, brush: Brush, y: float) -> None:
        if self.nose == "beak" or self.mouth == "none":
            return
        if self.mouth == "smile":
            brush.arc(0, y - 0.16, 0.28, 0.18, span=(0.1 * math.pi, 0.9 * math.pi), width=0.08, fill=INK)
        elif self.mouth == "open":
            brush.polygon(arc_points(0, y, 0.15, 0.1), (120, 30, 40))
        else:
            brush.line([(-0.12, y), (0.12, y)], 0.08, INK)


def random_critter(rng: random.Random, body: Colour, accent: Colour, belly: Colour) -> Critter:
    eyes = 1 if rng.random() < 0.15 else 2
    return Critter(
        body=body,
        accent=accent,
        belly=belly,
        outline=rng.choice(list(_OUTLINES)),
        crest=rng.choice(_CRESTS),
        crest_count=rng.randint(2, 5),
        arms=None if rng.random() < 0.25 else (rng.choice((-0.15, 0.25, 0.6)), rng.choice((-0.15, 0.25, 0.6))),
        feet=rng.choice(_FEET),
        neck=rng.choice(_NECKS),
        front=rng.choice(_BELLIES),
        marking=rng.choice(_MARKINGS),
        nose=rng.choice(_NOSES),
        mouth=rng.choice(_MOUTHS),
        tail=rng.choice(_TAILS),
        eyes=eyes,
        eye_radius=rng.uniform(0.2, 0.26) if eyes == 1 else rng.uniform(0.13, 0.19),
        eye_y=rng.uniform(-0.36, -0.2),
        gaze=rng.choice((-0.25, 0.0, 0.25)),
        winking=eyes == 2 and rng.random() < 0.15,
    )
