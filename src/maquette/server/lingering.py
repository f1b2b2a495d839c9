"""Hearing a client out after it has been answered.

A server that answers an upload halfway and closes the connection makes the client's kernel throw the answer away: the
client reads "connection reset" where the error stood. So what is still on its way is received and dropped, up to a
bound in bytes and time, after the answer was sent.
"""

import asyncio

from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, ReceiveMessage, Scope, Send

LONGEST = 30.0
"""Seconds that a client is heard out."""
MOST = 200_000_000
"""Bytes that a client is heard out."""


class Lingering(ASGIMiddleware):
    """Receives what an answered request still sends."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Answer, then listen."""
        body = _Body(receive)
        await next_app(scope, body.receive, send)
        if scope["type"] == "http" and scope["method"] in {"POST", "PUT"}:
            await body.drain()


class _Body:
    """A request's body on its way to the application; knows whether all of it has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> ReceiveMessage:
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body")
        return message

    async def drain(self) -> None:
        drained = 0
        try:
            async with asyncio.timeout(LONGEST):
                while not self._ended and drained < MOST:
                    message = await self.receive()
                    drained += len(message["body"]) if message["type"] == "http.request" else 0
        except TimeoutError:
            return
