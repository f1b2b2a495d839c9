r"""The notation of weights in prompts, as the AUTOMATIC1111 web interface has made it common.

    a (red) cat         red counts 1.1 times
    a (red:1.3) cat     red counts 1.3 times
    a [red] cat         red counts 1/1.1 times
    a ((red) cat:1.2)   weights multiply: red counts 1.32 times
    a \(red\) cat       brackets that mean themselves; a backslash before one does too
    a cat BREAK grass   what follows begins a new section, which the text encoder reads by itself

Every text is a prompt: a bracket that closes nothing means itself, and one that is never closed acts to the end. The
other notations (`[from:to:when]`, `AND`) are not read; their words count as they stand.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

STRONGER = 1.1
WEAKER = 1 / STRONGER

SIGN = re.compile(
    r"""
    \\[\\()\[\]]                                    # a bracket or backslash that means itself
    | :\s*(?P<weight>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\)   # the end of a bracket with a number
    | [()\[\]]
    """,
    re.VERBOSE,
)


BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Piece(NamedTuple):
    """Some of a prompt's text, and how strongly it counts; 1 is as written."""

    text: str
    weight: float


def parse(prompt: str) -> list[list[Piece]]:
    """Split a prompt into sections, and each into pieces of one weight, in order; there is at least one of either."""
    pieces: list[Piece] = []
    # Where each bracket that is not yet closed begins. The two kinds don't see each other, so they may cross.
    round_ones: list[int] = []
    square_ones: list[int] = []
    position = 0
    for sign in SIGN.finditer(prompt):
        pieces.append(Piece(prompt[position : sign.start()], 1.0))
        position = sign.end()
        match sign[0]:
            case "(":
                round_ones.append(len(pieces))
            case "[":
                square_ones.append(len(pieces))
            case ")" if round_ones:
                _weigh(pieces, round_ones.pop(), STRONGER)
            case "]" if square_ones:
                _weigh(pieces, square_ones.pop(), WEAKER)
            case _ if sign["weight"] and round_ones:
                _weigh(pieces, round_ones.pop(), float(sign["weight"]))
            case text:
                pieces.append(Piece(text.removeprefix("\\"), 1.0))
    pieces.append(Piece(prompt[position:], 1.0))
    for begin in round_ones:
        _weigh(pieces, begin, STRONGER)
    for begin in square_ones:
        _weigh(pieces, begin, WEAKER)
    return [_joined(section) for section in _sections(pieces)]


def _weigh(pieces: list[Piece], begin: int, factor: float) -> None:
    pieces[begin:] = [Piece(text, weight * factor) for text, weight in pieces[begin:]]


def _sections(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """The pieces between one BREAK and the next; brackets reach across it."""
    sections: list[list[Piece]] = [[]]
    for text, weight in pieces:
        first, *further = BREAK.split(text)
        sections[-1].append(Piece(first, weight))
        sections += [[Piece(after, weight)] for after in further]
    return sections


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one weight as one piece, so that a word is not cut by a bracket that means itself."""
    joined: list[Piece] = []
    for piece in pieces:
        if not piece.text:
            continue
        if joined and joined[-1].weight == piece.weight:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.weight)
        else:
            joined.append(piece)
    return joined or [Piece("", 1.0)]
