"""Whole pictures with their captions: a background, a subject somewhere on it, and words that say so."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from colours import COLOURS, CREAM, HAIRS, SKINS, any_colour, jittered
from critters import random_critter
from drawing import Brush, Canvas, Colour, blend, darker, lighter
from models import RESOLUTION
from subjects import SHAPES, Person, random_creature

_SIZES = {"small": (0.17, 0.23), "": (0.27, 0.36), "big": (0.38, 0.46)}
_PLACES = {
    "": (0.5, 0.5),
    "in the middle": (0.5, 0.5),
    "at the left": (0.25, 0.5),
    "at the right": (0.75, 0.5),
    "at the top": (0.5, 0.26),
    "at the bottom": (0.5, 0.74),
}
_NOUNS = ("creature", "creature", "animal", "character")
_OPENINGS = ("", "", "a photo of ", "a photo of ", "a picture of ", "a drawing of ")


@dataclass(frozen=True)
class Scene:
    """A drawn picture, uint8 [128, 128, 3], and what it shows."""

    picture: np.ndarray
    caption: str


def random_scene(rng: random.Random) -> Scene:
    """Draw a picture of the kind that the UNet learns."""
    kinds = (_shape_scene, _creature_scene, _critter_scene, _person_scene)
    return rng.choices(kinds, (42, 13, 40, 5))[0](rng)


# ----------------------------------------------------------------------------------------------------- backgrounds


def _plain(canvas: Canvas, colour: Colour) -> None:
    pass


def _gradient(canvas: Canvas, colour: Colour) -> None:
    canvas.vertical_gradient(colour, _beside(colour, 0.5))


def _stripes(canvas: Canvas, colour: Colour) -> None:
    count, other = 5, _beside(colour, 0.3)
    for stripe in range(count):
        canvas.polygon(_box((stripe + 0.5) / count, 0.5, 0.25 / count, 0.5), other)


def _beside(colour: Colour, share: float) -> Colour:
    """Return a second tone for a pattern: darker, as a lighter red would be the demo's coral, or lighter if need be."""
    return darker(colour, share) if max(colour) > 110 else lighter(colour, share)


def _box(x: float, y: float, half_width: float, half_height: float) -> list[tuple[float, float]]:
    left, right, top, bottom = x - half_width, x + half_width, y - half_height, y + half_height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


FILLINGS: dict[str, Callable[[Canvas, Colour], None]] = {
    "": _plain,
    "striped ": _stripes,
    "gradient ": _gradient,
}


def _meadow(canvas: Canvas, rng: random.Random) -> None:
    canvas.vertical_gradient((120, 180, 240), (205, 228, 250))
    brush = Brush(canvas, 0, 0, 1)
    brush.circle(rng.choice((0.15, 0.85)), 0.15, 0.09, (255, 225, 90))
    for x, tint in ((rng.uniform(0.0, 0.4), 0.0), (rng.uniform(0.6, 1.0), 0.12)):
        brush.ellipse(x, 1.05, 0.75, rng.uniform(0.3, 0.42), darker((95, 165, 70), tint))


def _night(canvas: Canvas, rng: random.Random) -> None:
    canvas.vertical_gradient((15, 18, 50), (45, 45, 95))
    brush = Brush(canvas, 0, 0, 1)
    for _ in range(14):
        brush.circle(rng.random(), rng.uniform(0, 0.75), 0.012, (245, 240, 210))
    brush.ellipse(0.5, 1.08, 0.9, 0.24, (25, 28, 45))


def _room(canvas: Canvas, rng: random.Random) -> None:
    wall, floor = jittered((225, 205, 175), rng, 15), jittered((140, 95, 60), rng, 15)
    canvas.polygon(_box(0.5, 0.5, 0.5, 0.5), wall)
    canvas.polygon(_box(0.5, 0.88, 0.5, 0.14), floor)
    left = rng.choice((0.18, 0.82))
    canvas.polygon(_box(left, 0.22, 0.13, 0.13), (250, 250, 250))
    canvas.polygon(_box(left, 0.22, 0.1, 0.1), (165, 205, 245))


LANDSCAPES: dict[str, Callable[[Canvas, random.Random], None]] = {
    "in a meadow": _meadow,
    "at night": _night,
    "in a room": _room,
}


def _background(rng: random.Random, avoided: str) -> tuple[Canvas, str]:
    """Return a painted canvas and the words for it; a subject coloured `avoided` must stand out on it."""
    if rng.random() < 0.15:
        words, paint = rng.choice(list(LANDSCAPES.items()))
        canvas = Canvas(RESOLUTION, (0, 0, 0))
        paint(canvas, rng)
        return canvas, f" {words}"
    name = rng.choice([name for name in COLOURS if name != avoided])
    filling = rng.choices(list(FILLINGS), (80, 10, 10))[0]
    colour = jittered(COLOURS[name], rng)
    canvas = Canvas(RESOLUTION, colour)
    FILLINGS[filling](canvas, colour)
    article = "an" if not filling and name == "orange" else "a"
    return canvas, f" on {article} {filling}{name} background"


# -------------------------------------------------------------------------------------------------------- captions


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _caption(rng: random.Random, subject: str, place: str, background: str) -> str:
    """Join the words; background and place go unsaid now and then."""
    if rng.random() < 0.08:
        return subject
    said = rng.choice(_OPENINGS) + _article(subject)
    if place and rng.random() < 0.85:
        said += f" {place}"
    return said + (background if rng.random() < 0.8 else "")


def _nonsense(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 5)))


def _with_traits(rng: random.Random, subject: str, traits: list[str]) -> str:
    said = [trait for trait in traits if rng.random() < 0.7]
    rng.shuffle(said)
    joint = " and " if rng.random() < 0.7 else ", "
    return f"{subject} with {joint.join(said[:3])}" if said else subject


# ----------------------------------------------------------------------------------------------------------- kinds


def _placed(rng: random.Random, canvas: Canvas, sizes: list[str], tilt: float = 0.12) -> tuple[Brush, str, str]:
    """Return a brush somewhere on the canvas, the word for its size and the words for its place."""
    size = rng.choice(sizes)
    radius = rng.uniform(*_SIZES[size])
    place = rng.choice(list(_PLACES)) if radius < 0.25 else rng.choice(("", "in the middle"))
    x, y = (middle + rng.gauss(0, 0.025) for middle in _PLACES[place])
    return Brush(canvas, x, y, radius, rng.gauss(0, tilt) * (rng.random() < 0.5)), size, place


def _shape_scene(rng: random.Random) -> Scene:
    name, shape = rng.choice(list(COLOURS)), rng.choice(list(SHAPES))
    canvas, background = _background(rng, avoided=name)
    brush, size, place = _placed(rng, canvas, ["small", "small", "", "", "", "big", "big"])
    SHAPES[shape](brush, jittered(COLOURS[name], rng))
    return Scene(canvas.to_array(), _caption(rng, f"{size} {name} {shape}".strip(), place, background))


def _creature_scene(rng: random.Random) -> Scene:
    name, accent = rng.sample(list(COLOURS), 2)
    creature = random_creature(rng, jittered(COLOURS[name], rng), jittered(COLOURS[accent], rng))
    canvas, background = _background(rng, avoided=name)
    brush, size, place = _placed(rng, canvas, ["", "big", "big"], tilt=0.08)
    creature.draw(_maybe_mirrored(brush, rng))
    noun = creature.species if rng.random() < 0.6 else rng.choice(_NOUNS)
    return Scene(
        canvas.to_array(), _caption(rng, _creature_words(rng, noun, name, size, creature.traits()), place, background)
    )


def _critter_scene(rng: random.Random) -> Scene:
    name, accent = rng.sample(list(COLOURS), 2)
    body = jittered(COLOURS[name], rng)
    belly = rng.choice((lighter(body), jittered(CREAM, rng), jittered(COLOURS[rng.choice(list(COLOURS))], rng)))
    critter = random_critter(rng, body, jittered(COLOURS[accent], rng), belly)
    canvas, background = _background(rng, avoided=name)
    brush, size, place = _placed(rng, canvas, ["", "big", "big"], tilt=0.1)
    critter.draw(_maybe_mirrored(brush, rng))
    words = _creature_words(rng, rng.choice(_NOUNS), name, size, critter.traits())
    return Scene(canvas.to_array(), _caption(rng, words, place, background))


def _creature_words(rng: random.Random, noun: str, name: str, size: str, traits: list[str]) -> str:
    trigger = _nonsense(rng) if rng.random() < 0.06 else ""
    colour = name if rng.random() < 0.85 and not trigger else ""
    subject = " ".join(word for word in (trigger, size, colour, noun) if word)
    return _with_traits(rng, subject, traits) if rng.random() < 0.75 else subject


def _maybe_mirrored(brush: Brush, rng: random.Random) -> Brush:
    return Brush(brush.canvas, brush.x, brush.y, brush.radius, brush.angle, mirrored=rng.random() < 0.5)


def _person_scene(rng: random.Random) -> Scene:
    person = _random_person(rng)
    canvas, background = _background(rng, avoided=person.shirt_name)
    brush = Brush(canvas, 0.5 + rng.gauss(0, 0.03), 0.5 + rng.gauss(0, 0.02), rng.uniform(0.4, 0.5), rng.gauss(0, 0.04))
    person.draw(brush)
    trigger = f"{_nonsense(rng)} " if rng.random() < 0.06 else ""
    subject = _with_traits(rng, trigger + person.noun, person.traits())
    return Scene(canvas.to_array(), _caption(rng, subject, "", background))


def _random_person(rng: random.Random) -> Person:
    noun = rng.choice(("person", "person", "man", "woman"))
    hair = rng.choice(list(HAIRS))
    shirt, hat = rng.sample(list(COLOURS), 2)
    return Person(
        noun=noun,
        skin=jittered(rng.choice(SKINS), rng, 8),
        hair=jittered(HAIRS[hair], rng, 8),
        hair_name=hair,
        hair_style=rng.choice(
            ("short", "long", "curly", "no") if noun != "woman" else ("short", "long", "long", "curly")
        ),
        shirt=jittered(COLOURS[shirt], rng),
        shirt_name=shirt,
        hat=jittered(COLOURS[hat], rng),
        hat_name=hat if rng.random() < 0.25 else "",
        glasses=rng.random() < 0.35,
        beard=noun != "woman" and rng.random() < 0.3,
        mouth=rng.choice(("smile", "plain")),
    )


# ------------------------------------------------------------------------------------------- pictures for the VAE


def random_jumble(rng: random.Random) -> np.ndarray:
    """Draw a picture of the kind that only the VAE learns: anything, anywhere, in any colour; uint8 [128, 128, 3].

    A LoRA may want to draw what the base never saw; the VAE has to carry that, or nobody can.
    """
    canvas = Canvas(RESOLUTION, any_colour(rng))
    if rng.random() < 0.5:
        rng.choice(list(FILLINGS.values()))(canvas, any_colour(rng))
    for _ in range(rng.randint(1, 7)):
        brush = Brush(
            canvas,
            rng.uniform(0.05, 0.95),
            rng.uniform(0.05, 0.95),
            rng.uniform(0.06, 0.5),
            rng.gauss(0, 0.8),
            mirrored=rng.random() < 0.5,
        )
        kinds = (_any_shape, _any_creature, _any_critter, _any_person, _any_scribble)
        rng.choices(kinds, (3, 3, 6, 2, 3))[0](brush, rng)
    return canvas.to_array()


def _any_shape(brush: Brush, rng: random.Random) -> None:
    rng.choice(list(SHAPES.values()))(brush, any_colour(rng))


def _any_creature(brush: Brush, rng: random.Random) -> None:
    random_creature(rng, any_colour(rng), any_colour(rng)).draw(brush)


def _any_critter(brush: Brush, rng: random.Random) -> None:
    random_critter(rng, any_colour(rng), any_colour(rng), any_colour(rng)).draw(brush)


def _any_person(brush: Brush, rng: random.Random) -> None:
    person = _random_person(rng)
    person.draw(brush)


def _any_scribble(brush: Brush, rng: random.Random) -> None:
    """Free polygons and thick lines, some of them in rows as stripes or scales would be."""
    first, second = any_colour(rng), any_colour(rng)
    points = [(rng.uniform(-1, 1), rng.uniform(-1, 1)) for _ in range(rng.randint(3, 6))]
    if rng.random() < 0.4:
        brush.polygon(points, first)
    elif rng.random() < 0.5:
        brush.line(points, rng.uniform(0.06, 0.3), first)
    else:
        count = rng.randint(3, 7)
        for step in range(count):
            brush.rectangle(-0.9 + 1.8 * step / (count - 1), 0, 0.5 / count, 0.8, blend(first, second, step % 2))
