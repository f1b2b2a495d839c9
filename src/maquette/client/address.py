"""Addresses of servers, checked before anything is sent there."""

import re

import httpx

from maquette.core.errors import InvalidRequest

HOST = re.compile(r"[0-9a-z_-]{1,63}(\.[0-9a-z_-]{1,63})*\.?|[0-9a-f.]*:[0-9a-f:.]*", re.IGNORECASE)
"""A name of labels as the resolver takes it, or an IPv6 address."""


def server_address(text: str) -> httpx.URL:
    """The address of a server, as `MAQUETTE_URL` holds it.

    Raises:
        InvalidRequest: no server can be there.
    """
    url = web_address("MAQUETTE_URL", text)
    if url.query or url.fragment:
        raise InvalidRequest("MAQUETTE_URL", f"must end with the host, the port or a path, got {text!r}")
    return url


def web_address(field: str, text: str) -> httpx.URL:
    """Any address that HTTP can reach; `field` is where it comes from.

    Raises:
        InvalidRequest: HTTP can't.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidRequest(field, f"{error}, got {text!r}") from None
    if url.scheme not in {"http", "https"}:
        raise InvalidRequest(field, f"must begin with http:// or https://, got {text!r}")
    if not HOST.fullmatch(url.raw_host.decode()):
        raise InvalidRequest(field, f"must name a host, such as http://127.0.0.1:8080, got {text!r}")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise InvalidRequest(field, f"the port must be between 1 and 65535, got {text!r}")
    if url.userinfo:
        raise InvalidRequest(field, "must hold no user name or password; the API key says who you are")
    return url


def origin(url: httpx.URL) -> str:
    """The server's part of an address."""
    return f"{url.scheme}://{url.netloc.decode()}"
