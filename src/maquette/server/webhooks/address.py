"""Where a webhook is: one reading of what a client sent, when it is sent as when it is called."""

import ipaddress
import re
import socket

import httpx
from msgspec import Struct

from maquette.server.webhooks.reach import Address

MAX_HOST = 253
"""Characters of a host name, RFC 1035."""
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A host whose last label is one of these is an IPv4 address, however it is written."""
PORTS = {"http": 80, "https": 443}
LOOPBACK = ipaddress.IPv4Address("127.0.0.1")


class InvalidAddress(ValueError):
    """No webhook can be there; the message completes a sentence that begins with the field's name."""


class WebhookAddress(Struct, frozen=True):
    """An address that a webhook may have.

    Attributes:
        url: as it is called; a name and a password in it are sent by HTTP Basic.
        host: in ASCII, without brackets.
        port: given, or the scheme's.
        literal: the IP address that `host` is, however written; None where it is a name that is yet to be resolved.
    """

    url: httpx.URL
    host: str
    port: int
    literal: Address | None

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's: what the header `Host` says."""
        return self.url.netloc.decode("ascii")


def read_address(text: str) -> WebhookAddress:
    """Read an address as a client wrote it; names of other alphabets are taken as IDNA 2008 writes them.

    Raises:
        InvalidAddress: no webhook can be there.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidAddress(f"must be an address: {error}") from None
    if url.scheme not in PORTS or not url.raw_host:
        raise InvalidAddress("must be an http or https address, such as https://example.com/done")
    port = PORTS[url.scheme] if url.port is None else url.port
    if not 1 <= port <= 65535:
        raise InvalidAddress(f"must have a port from 1 to 65535, got {port}")
    host = url.raw_host.decode("ascii")
    return WebhookAddress(url, host, port, _literal(host))


def _literal(host: str) -> Address | None:
    if ":" in host and "%" not in host:
        return _ip_address(host)
    labels = host.removesuffix(".").split(".")
    if NUMBER.fullmatch(labels[-1]):
        return _ip_address(_dotted(host))
    if len(host) > MAX_HOST or not all(map(LABEL.fullmatch, labels)):
        raise InvalidAddress(
            f"must have a host name, whose labels are of 1 to 63 letters, digits and hyphens, got {host[:80]!r}"
        )
    return LOOPBACK if labels[-1] == "localhost" else None


def _ip_address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidAddress(f"must have a host name or an IP address, got {text[:80]!r}") from None


def _dotted(host: str) -> str:
    """An IPv4 address as the resolver reads it: `127.1`, `0x7f.0.0.1` and `2130706433` are all 127.0.0.1."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        return host
