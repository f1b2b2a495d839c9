"""Query strings in one form."""

from urllib.parse import urlencode

import pytest

from maquette.server.queries import dotted


@pytest.mark.parametrize(
    ("query", "rewritten"),
    [
        (b"pagination.limit=5", b"pagination.limit=5"),
        (b"pagination[limit]=5&pagination[cursor]=c_1", b"pagination.limit=5&pagination.cursor=c_1"),
        (b"pagination%5Blimit%5D=5", b"pagination.limit=5"),
        (b"a[b][c]=1", b"a.b.c=1"),
        (b"a=[1]", b"a=%5B1%5D"),
        (b"a=&b=1&c", b"b=1"),
        (b"a=%C3%A9+%26", b"a=%C3%A9+%26"),
        (b"[a]=1&a[]=2", b".a=1&a%5B%5D=2"),
        (b"", b""),
    ],
)
def test_dots_for_brackets_and_no_blanks(query: bytes, rewritten: bytes) -> None:
    assert urlencode(dotted(query)).encode() == rewritten
