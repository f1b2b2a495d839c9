"""Drawing primitives: a supersampled canvas, and brushes that draw on it in a subject's own coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Span = tuple[float, float]
"""From one angle to another, in radians; 0 points right, a quarter turn points down."""

SUPERSAMPLING = 3
_ELLIPSE_POINTS = 40


def blend(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour that lies `share` (0..1) of the way from `a` to `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float = 0.3) -> Colour:
    return blend(colour, (0, 0, 0), share)


def lighter(colour: Colour, share: float = 0.4) -> Colour:
    return blend(colour, (255, 255, 255), share)


class Canvas:
    """A square RGB picture drawn at `SUPERSAMPLING` times its final size, so that its edges come out smooth.

    Coordinates run from 0 to 1, the origin is the top left corner.
    """

    def __init__(self, size: int, background: Colour) -> None:
        self.size = size
        self.pixels = size * SUPERSAMPLING
        self._image = Image.new("RGB", (self.pixels, self.pixels), background)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self._draw.polygon([(x * self.pixels, y * self.pixels) for x, y in points], fill=fill)

    def line(self, points: list[Point], width: float, fill: Colour) -> None:
        """Draw a polyline with round joints and ends; `width` is a share of the picture's side."""
        scaled = [(x * self.pixels, y * self.pixels) for x, y in points]
        pixels = max(1, round(width * self.pixels))
        self._draw.line(scaled, fill=fill, width=pixels, joint="curve")
        radius = pixels / 2
        for x, y in (scaled[0], scaled[-1]):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def vertical_gradient(self, top: Colour, bottom: Colour) -> None:
        share = np.linspace(0, 1, self.pixels)[:, None]
        column = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
        field = np.repeat(column[:, None, :], self.pixels, axis=1).round().astype(np.uint8)
        self._image.paste(Image.fromarray(field))

    def to_array(self) -> np.ndarray:
        """Return the finished picture, uint8 [size, size, 3]."""
        return np.asarray(self.to_image())

    def to_image(self) -> Image.Image:
        return self._image.resize((self.size, self.size), Image.Resampling.BOX)


@dataclass(frozen=True)
class Brush:
    """Draws in a subject's own coordinates: its middle is (0, 0) and it reaches about 1 in each direction.

    `x`, `y` and `radius` are shares of the picture's side, `angle` is in radians, `mirrored` swaps left and right.
    """

    canvas: Canvas
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.5
    angle: float = 0.0
    mirrored: bool = False

    def at(self, x: float, y: float, radius: float = 1.0, angle: float = 0.0) -> Self:
        """Return a brush for a part of the subject, placed in the coordinates of this one."""
        place_x, place_y = self._place((x, y))
        turned = -angle if self.mirrored else angle
        return type(self)(
            self.canvas, place_x, place_y, self.radius * radius, self.angle + turned, mirrored=self.mirrored
        )

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.canvas.polygon([self._place(point) for point in points], fill)

    def line(self, points: list[Point], width: float, fill: Colour) -> None:
        self.canvas.line([self._place(point) for point in points], width * self.radius, fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour, *, angle: float = 0.0) -> None:
        self.polygon(arc_points(x, y, rx, ry, angle=angle), fill)

    def circle(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.ellipse(x, y, radius, radius, fill)

    def arc(self, x: float, y: float, rx: float, ry: float, *, span: Span, width: float, fill: Colour) -> None:
        """Draw a part of an ellipse's outline, `width` wide."""
        self.line(arc_points(x, y, rx, ry, span), width, fill)

    def rectangle(self, x: float, y: float, half_width: float, half_height: float, fill: Colour) -> None:
        left, right, top, bottom = x - half_width, x + half_width, y - half_height, y + half_height
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def rounded_rectangle(
        self, x: float, y: float, half_width: float, half_height: float, *, corner: float, fill: Colour
    ) -> None:
        outline: list[Point] = []
        for quarter, (sign_x, sign_y) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
            centre_x, centre_y = x + sign_x * (half_width - corner), y + sign_y * (half_height - corner)
            start = quarter * math.pi / 2
            outline += arc_points(centre_x, centre_y, corner, corner, (start, start + math.pi / 2))
        self.polygon(outline, fill)

    def _place(self, point: Point) -> Point:
        x, y = point
        if self.mirrored:
            x = -x
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return self.x + self.radius * (x * cosine - y * sine), self.y + self.radius * (x * sine + y * cosine)


def arc_points(
    x: float, y: float, rx: float, ry: float, span: Span = (0.0, math.tau), *, angle: float = 0.0
) -> list[Point]:
    """Return points on a part of an ellipse whose axes are turned by `angle`; a rising `span` goes clockwise."""
    start, end = span
    count = max(4, round(_ELLIPSE_POINTS * abs(end - start) / math.tau))
    cosine, sine = math.cos(angle), math.sin(angle)
    points = []
    for step in range(count + 1):
        turn = start + (end - start) * step / count
        along, across = rx * math.cos(turn), ry * math.sin(turn)
        points.append((x + along * cosine - across * sine, y + along * sine + across * cosine))
    return points


def star_points(tips: int, inner: float, outer: float = 1.0) -> list[Point]:
    """Return the outline of a star whose first tip points up; with `inner` near `outer` a regular polygon."""
    points = []
    for corner in range(2 * tips):
        radius = inner if corner % 2 else outer
        turn = math.pi * corner / tips - math.pi / 2
        points.append((radius * math.cos(turn), radius * math.sin(turn)))
    return points
