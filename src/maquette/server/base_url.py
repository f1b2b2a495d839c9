"""What the absolute addresses begin with that clients are given, of uploads, pictures and models alike."""

from typing import Any

from litestar import Request
from litestar.di import NamedDependency

from maquette.server.settings import Settings


def base_url(public_url: str, reached_at: str) -> str:
    """The operator's `public_url`, or how a client reached this server; without a slash at its end.

    Either may have a path, which the proxy that added it strips from requests: what is signed is the path behind it.
    """
    return (public_url or reached_at).rstrip("/")


def base_url_of(request: Request[Any, Any, Any], settings: NamedDependency[Settings]) -> str:
    """What the addresses in the answer to this request begin with."""
    return base_url(settings.public_url, str(request.base_url))
