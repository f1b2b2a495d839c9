"""Bodies are read as clients send them."""

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from maquette.core.errors import InvalidRequest
from maquette.core.requirements import read
from maquette.server.bodies import without_placeholders


class Numbers(Struct):
    """One whole number and one fraction."""

    whole: Annotated[int, Meta(ge=-(10**6), le=10**6)] = 0
    fraction: Annotated[float, Meta(gt=0, le=10**6)] = 1.0


@given(st.integers(-(10**6), 10**6))
def test_whole_numbers_in_every_form(number: int) -> None:
    for form in (number, str(number), float(number), f"{number}.0"):
        assert read({"whole": form}, Numbers).whole == number


@given(st.floats(1e-6, 10**6))
def test_fractions_in_every_form(number: float) -> None:
    for form in (number, str(number), f"{number!r}"):
        assert read({"fraction": form}, Numbers).fraction == number


@given(st.one_of(st.sampled_from(["nan", "NaN", "inf", "-inf", "Infinity", "1e400"]), st.floats(max_value=0)))
def test_what_is_no_fraction_within_bounds(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^fraction: must be"):
        read({"fraction": value}, Numbers)


@given(st.text().filter(lambda text: not any(letter.isdigit() for letter in text)))
def test_words_are_no_numbers(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^whole: must be a whole number between -1000000 and 1000000, got "):
        read({"whole": text}, Numbers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=30,
)


def says_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | dict) and not value)


def field_values(value: Any) -> list[Any]:
    match value:
        case dict():
            return [*value.values(), *(found for item in value.values() for found in field_values(item))]
        case list():
            return [found for item in value for found in field_values(item)]
        case _:
            return []


@given(JSON)
def test_no_field_that_says_nothing_is_left(value: Any) -> None:
    cleaned = without_placeholders(value, "")
    assert not any(says_nothing(field) for field in field_values(cleaned))
    assert without_placeholders(cleaned, "") == cleaned


def test_false_and_zero_and_empty_lists_say_something() -> None:
    value = {"a": False, "b": 0, "c": [], "d": 0.0}
    assert without_placeholders(value, "") == value


def test_lists_keep_their_places() -> None:
    assert without_placeholders([None, {"a": None}, "", 1], "") == [None, {}, "", 1]
