"""Cursors: positions that we hand out, offsets that clients compute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.core.errors import InvalidRequest
from maquette.server.training.cursors import Position, cursor_after, parse_cursor


def test_the_form_is_pinned() -> None:
    assert cursor_after(42) == "c_1000000000000042"


def test_empty_is_the_start() -> None:
    assert parse_cursor("") == Position()


@given(st.integers(0, 8 * 10**15), st.sampled_from(["", "c_"]))
def test_positions_read_back(number: int, doubled: str) -> None:
    assert parse_cursor(doubled + cursor_after(number)) == Position(before_number=number)


@given(st.integers(0, 10**15 - 1), st.sampled_from(["", "c_"]))
def test_smaller_numbers_are_offsets(number: int, doubled: str) -> None:
    assert parse_cursor(f"{doubled}c_{number}") == Position(offset=number)


@given(st.text(min_size=1))
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^pagination\.cursor: "):
        parse_cursor(text)


@given(st.text(alphabet="c_0123456789", min_size=1, max_size=40))
def test_what_looks_like_one_is_one_or_refused(text: str) -> None:
    try:
        position = parse_cursor(text)
    except InvalidRequest:
        return
    assert (position.offset is None) != (position.before_number is None)
    assert 0 <= (position.offset or position.before_number or 0) < 2**63
