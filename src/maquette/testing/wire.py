"""HTTP as bytes: requests exactly as a client writes them, and the answers as they come back.

What published clients send is kept here as header lines in their order. Those of the Python and JavaScript clients were
taken from them while they ran; the PHP client's are what its source sets and the library that it sends with adds.
"""

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

PATIENCE = 60.0
"""Seconds until an answer must have come."""

PYTHON = (
    "Host: {host}",
    "User-Agent: novita-python-sdk/0.5.0",
    "Accept-Encoding: gzip, deflate",
    "Accept: application/json",
    "Connection: keep-alive",
    "Content-Type: application/json",
    "Authorization: Bearer {key}",
)
JAVASCRIPT = (
    "Accept: application/json, text/plain, */*",
    "Content-Type: application/json",
    "X-Novita-Source: js-sdk-novita/3.1.2",
    "X-Api-Source: js-sdk-novita/3.1.2",
    "Authorization: {key}",
    "User-Agent: axios/1.21.1",
    "Accept-Encoding: gzip, compress, deflate, br",
    "Host: {host}",
    "Connection: keep-alive",
)
PHP = (
    "User-Agent: GuzzleHttp/7",
    "Content-Type: application/json",
    "Authorization: Bearer {key}",
    "Host: {host}",
)
CURL = ("Host: {host}", "User-Agent: curl/8.5.0", "Accept: */*", "Authorization: Bearer {key}")
KEYLESS = ("Host: {host}", "User-Agent: curl/8.5.0", "Accept: */*")
"""How every client uses an address that is its own permission."""


class Answer(Struct, frozen=True):
    """What came back; the headers' names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, which must be JSON in UTF-8."""
        return json.loads(self.body.decode())


class WireClient(Struct, frozen=True):
    """A client of one server; every request has a connection of its own.

    Attributes:
        host: the server, as `127.0.0.1:8000`.
        key: its API key.
        lines: its header lines, with `{host}` and `{key}` where those belong; there are no others but the length's.
    """

    host: str
    key: str
    lines: tuple[str, ...]

    def get(self, target: str, *lines: str, body: bytes = b"") -> Answer:
        """Send a GET with further header lines; `target` is a path, or an address on this server."""
        return self._exchange(self._head("GET", target, *lines) + body)

    def post(self, target: str, body: Any) -> Answer:
        """Send a POST of `body`: bytes as they are, all else as Python's JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._exchange(self._head("POST", target, f"Content-Length: {len(data)}") + data)

    def put(self, target: str, data: bytes, *lines: str) -> Answer:
        """Send a PUT, with further header lines."""
        return self._exchange(self._head("PUT", target, *lines, f"Content-Length: {len(data)}") + data)

    def put_when_told(self, target: str, data: bytes, *lines: str) -> Answer:
        """Send a PUT whose body waits for the server's `100 Continue`."""
        head = self._head("PUT", target, *lines, f"Content-Length: {len(data)}", "Expect: 100-continue")
        return self._exchange(head, data)

    def _head(self, method: str, target: str, *lines: str) -> bytes:
        address = urlsplit(target)
        path = f"{address.path}?{address.query}" if address.query else address.path
        own = [line.format(host=self.host, key=self.key) for line in self.lines]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *own, *lines, "", ""]).encode()

    def _exchange(self, data: bytes, when_told: bytes = b"") -> Answer:
        name, _, port = self.host.rpartition(":")
        with socket.create_connection((name, int(port)), PATIENCE) as connection:
            connection.sendall(data)
            if when_told:
                _await_continue(connection)
                connection.sendall(when_told)
            with http.client.HTTPResponse(connection) as response:
                response.begin()
                headers = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, headers, response.read())


def _await_continue(connection: socket.socket) -> None:
    with connection.makefile("rb", buffering=0) as lines:
        assert lines.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert lines.readline() == b"\r\n"
