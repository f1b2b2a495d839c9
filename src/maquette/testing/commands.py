"""Commands as tests run them: in the test's own process, against a server that the test plays."""

from collections.abc import Callable
from typing import NamedTuple

import httpx


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]
"""Runs `maquette` with these arguments."""
Answer = Callable[[httpx.Request], httpx.Response]
Play = Callable[[Answer], list[httpx.Request]]
"""Lets a function answer for the server; answers the list of requests that reach it."""
