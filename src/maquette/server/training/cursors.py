"""Cursors of the list.

What we hand out names a place, the running number of the last task on the page, so that it stays right while tasks
are created and deleted. It is still a number after `c_`, for clients that parse one; and clients that count hand in
offsets of their own, which are told apart by having fewer digits.
"""

import re

from msgspec import Struct

from maquette.core.errors import InvalidRequest

FIRST_PLACE = 10**15
"""Added to running numbers: everything below it is an offset."""

_CURSOR = re.compile(r"(?:c_){1,2}(?P<digits>[0-9]{1,16})")


class Position(Struct, frozen=True):
    """Where a page begins: behind the task of a running number, or after `offset` tasks, or (neither) at the start."""

    before_number: int | None = None
    offset: int | None = None


def cursor_after(number: int) -> str:
    """The cursor of the page behind the task of this running number."""
    return f"c_{FIRST_PLACE + number}"


def parse_cursor(text: str) -> Position:
    """Where the page of a cursor begins.

    Raises:
        InvalidRequest: it is none.
    """
    if not text:
        return Position()
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise _malformed()
    number = int(found["digits"])
    if number >= FIRST_PLACE:
        return Position(before_number=number - FIRST_PLACE)
    if len(found["digits"]) == len(str(FIRST_PLACE)):
        raise _malformed()
    return Position(offset=number)


def _malformed() -> InvalidRequest:
    return InvalidRequest(
        "pagination.cursor", "must be empty, the next_cursor of an earlier page, or c_ and a number of tasks to skip"
    )
