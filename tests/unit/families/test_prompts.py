"""The notation of weights in prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.families.prompts import Piece, parse

SIGNS = "()[]\\"


def weights(prompt: str) -> dict[str, float]:
    """Weight of each piece, by its text without the spaces around it."""
    (section,) = parse(prompt)
    return {text.strip(): weight for text, weight in section}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", {"a cat": 1}),
        ("a (red) cat", {"a": 1, "red": 1.1, "cat": 1}),
        ("a [red] cat", {"a": 1, "red": 1 / 1.1, "cat": 1}),
        ("a (red:1.3) cat", {"a": 1, "red": 1.3, "cat": 1}),
        ("a (red: .5 ) cat", {"a": 1, "red": 0.5, "cat": 1}),
        ("(a:-1)", {"a": -1}),
        ("(((a)))", {"a": 1.1**3}),
        ("[[a]]", {"a": 1.1**-2}),
        ("((a) b:1.2)", {"a": 1.32, "b": 1.2}),
        ("(a [b:1.5] c)", {"a": 1.1, "b:1.5": 1, "c": 1.1}),
        ("([a) b]", {"a": 1, "b": 1 / 1.1}),
        ("(a b", {"a b": 1.1}),
        ("[a", {"a": 1 / 1.1}),
        ("a) b] c", {"a) b] c": 1}),
        ("a:1.2)", {"a:1.2)": 1}),
        ("(a:1.2.3)", {"a:1.2.3": 1.1}),
        ("(a:b:2)", {"a:b": 2}),
        (r"\(a\) \[b\] \\c", {r"(a) [b] \c": 1}),
        (r"(\(a\):1.5)", {"(a)": 1.5}),
        (r"a\b", {r"a\b": 1}),
        ("", {"": 1}),
        ("()", {"": 1}),
    ],
)
def test_notation(prompt: str, expected: dict[str, float]) -> None:
    assert weights(prompt) == pytest.approx(expected)


def test_neighbours_of_one_weight_are_one_piece() -> None:
    assert parse(r"snow\(flake\) white") == [[Piece("snow(flake) white", 1.0)]]


@pytest.mark.parametrize(
    ("prompt", "sections"),
    [
        ("a cat BREAK grass", [[("a cat", 1)], [("grass", 1)]]),
        ("a cat\nBREAK\ngrass", [[("a cat", 1)], [("grass", 1)]]),
        ("BREAK a", [[("", 1)], [("a", 1)]]),
        ("a BREAK BREAK b", [[("a", 1)], [("", 1)], [("b", 1)]]),
        ("(a BREAK b:1.5) c", [[("a", 1.5)], [("b", 1.5), (" c", 1)]]),
        ("a (BREAK) b", [[("a ", 1)], [(" b", 1)]]),
        ("a break BREAKING", [[("a break BREAKING", 1)]]),
    ],
)
def test_a_break_begins_a_section(prompt: str, sections: list[list[tuple[str, float]]]) -> None:
    assert parse(prompt) == sections


@given(st.text(st.one_of(st.sampled_from(SIGNS + ":1.2 a"), st.characters()), max_size=60))
def test_every_text_is_a_prompt(prompt: str) -> None:
    sections = parse(prompt)
    assert sections
    assert all(sections)
    read = "".join(text for section in sections for text, _ in section)
    rest = iter(prompt)
    assert all(character in rest for character in read), "what is read stands in the prompt, in this order"


@given(st.text(st.characters(exclude_characters=SIGNS)))
def test_text_without_brackets_comes_back_whole(prompt: str) -> None:
    assert parse(prompt) == [[Piece(prompt, 1.0)]]


@given(st.text(st.one_of(st.sampled_from(SIGNS), st.characters())))
def test_escaped_text_comes_back_whole(text: str) -> None:
    escaped = "".join(f"\\{character}" if character in SIGNS else character for character in text)
    assert parse(escaped) == [[Piece(text, 1.0)]]


@given(st.lists(st.sampled_from("(["), max_size=8), st.text(st.characters(exclude_characters=SIGNS), min_size=1))
def test_brackets_multiply(brackets: list[str], text: str) -> None:
    # The colon would be that of a weight where the text ends in a number.
    text = text.replace(":", ";")
    closing = "".join(")" if bracket == "(" else "]" for bracket in reversed(brackets))
    (((read, weight),),) = parse("".join(brackets) + text + closing)
    assert read == text
    assert weight == pytest.approx(1.1 ** (brackets.count("(") - brackets.count("[")))
