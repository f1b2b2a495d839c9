"""Query strings: one form for what clients write in several."""

import re
from urllib.parse import parse_qsl, urlencode

from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

_BRACKETED = re.compile(r"\[([^\[\]]+)\]")


class DottedQueries(ASGIMiddleware):
    """Makes `pagination[limit]=5` read like `pagination.limit=5`, and drops parameters without a value."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Rewrite the query before anybody parses it."""
        if scope["query_string"]:
            scope["query_string"] = dotted(scope["query_string"])
        await next_app(scope, receive, send)


def dotted(query: bytes) -> bytes:
    """The same query with dots for brackets, without blank values."""
    pairs = parse_qsl(query.decode("latin-1"))
    return urlencode([(_BRACKETED.sub(r".\1", name), value) for name, value in pairs]).encode()
