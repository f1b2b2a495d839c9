"""API keys: their form, and what is told of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.server.access.keys import ApiKey, draw_key, parse_header, parse_key

KEY = ApiKey("abcdefghijklmnop", "a2" * 16)


def test_a_drawn_key_reads_back() -> None:
    key = draw_key()
    assert parse_key(str(key)) == key
    assert draw_key() != key


def test_the_secret_has_160_bits_and_stays_out_of_logs() -> None:
    assert len(draw_key().secret) * 5 == 160
    assert KEY.secret not in repr(KEY)
    assert KEY.secret not in KEY.secret_hash


def test_the_form_is_pinned() -> None:
    assert str(KEY) == f"mq_abcdefghijklmnop{'a2' * 16}141e7ad7"


@given(st.integers(3, 58), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_typing_mistake_is_noticed_offline(position: int, letter: str) -> None:
    text = str(KEY)
    mistyped = text[:position] + letter + text[position + 1 :]
    assert parse_key(mistyped) == (KEY if mistyped == text else None)


@pytest.mark.parametrize("text", ["", "mq_", "sk_" + str(KEY)[3:], str(KEY)[:-1], str(KEY) + "0", str(KEY).upper()])
def test_other_texts_are_no_keys(text: str) -> None:
    assert parse_key(text) is None


@given(st.sampled_from(["", "Bearer", "bearer", "BEARER"]), st.integers(0, 3), st.sampled_from(["", ";", " ;", " ; "]))
def test_headers_as_clients_send_them(word: str, spaces: int, end: str) -> None:
    assert parse_header(f"{word}{' ' * spaces}{KEY}{end}") == KEY


@given(st.text())
def test_any_other_header_is_none(header: str) -> None:
    assert parse_header(header) is None


def test_only_its_own_hash_matches() -> None:
    assert KEY.matches(KEY.secret_hash)
    assert not KEY.matches(draw_key().secret_hash)
