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
        (b"[a]=1&a[]=2&b=3", b".a=1&a=2&b=3"),
        (b"a[b][]=1&a[b][]=2", b"a.b=1&a.b=2"),
        (b"a[b][0]=1&a%5Bb%5D%5B1%5D=2&a.b[10]=3", b"a.b=1&a.b=2&a.b=3"),
        (b"a[0][b]=1&a[0]b=2&[0]=3", b"a.0.b=1&a.0b=2&=3"),
        (b"", b""),
    ],
)
def test_dots_for_brackets_and_no_blanks(query: bytes, rewritten: bytes) -> None:
    assert urlencode(dotted(query)).encode() == rewritten
