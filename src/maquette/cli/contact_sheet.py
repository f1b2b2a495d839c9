"""Pictures side by side with their prompts, on one sheet."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL = 256
GAP = 12
LABEL_WIDTH = 130
HEADER_HEIGHT = 64
INK = (32, 33, 36)
PAPER = (255, 255, 255)
FONT_SIZE = 18
HEADER_CHARACTERS = 26


class Row(NamedTuple):
    """One row of pictures, and the words before it."""

    label: str
    pictures: Sequence[Path]


def draw_sheet(headers: Sequence[str], rows: Sequence[Row], target: Path) -> None:
    """Write a PNG with one column a header and one labelled row a `Row`."""
    width = LABEL_WIDTH + len(headers) * (CELL + GAP) + GAP
    height = HEADER_HEIGHT + len(rows) * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for column, header in enumerate(headers):
        middle = _left(column) + CELL // 2
        text = fill(header, HEADER_CHARACTERS)
        pen.multiline_text((middle, HEADER_HEIGHT // 2), text, INK, font, anchor="mm", align="center")
    for index, row in enumerate(rows):
        top = HEADER_HEIGHT + index * (CELL + GAP)
        pen.multiline_text((GAP, top + CELL // 2), row.label, INK, font, anchor="lm")
        for column, picture in enumerate(row.pictures):
            with Image.open(picture) as image:
                scaled = image.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(scaled, (_left(column), top))
    sheet.save(target)


def _left(column: int) -> int:
    return LABEL_WIDTH + column * (CELL + GAP)
