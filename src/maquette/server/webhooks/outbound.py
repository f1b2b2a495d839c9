"""The one way out: calls to addresses that tenants name.

A tenant's address must not reach what only this house can reach. A name is resolved once, every address it has must be
public or one that the operator allows, and the connection goes to an address that was checked, whatever the name says a
moment later. Redirects are not followed.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS = {"http": 80, "https": 443}


class OutboundRefused(Exception):
    """The address may not be called; the message says why."""


class OutboundFailed(Exception):
    """The call came to no answer; the message says why."""


class Outbound:
    """Posts JSON to addresses outside."""

    def __init__(self, allowed: Sequence[Network], timeout: float) -> None:
        """Take the networks that may be called though they are not public, and the seconds for a whole call."""
        self._allowed = tuple(allowed)
        self._timeout = timeout
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout)

    async def post(self, url: str, body: bytes) -> int:
        """Post a JSON body; answers the status.

        Raises:
            OutboundRefused, OutboundFailed: see there.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(url, body)
        except TimeoutError:
            raise OutboundFailed(f"no answer within {self._timeout:g} s") from None

    async def close(self) -> None:
        """Let go of every connection."""
        await self._http.aclose()

    async def _post(self, url: str, body: bytes) -> int:
        target = httpx.URL(url)
        address = await self._checked(target)
        headers = {"Host": urlsplit(url).netloc.rpartition("@")[2], "Content-Type": "application/json"}
        try:
            async with self._http.stream(
                "POST",
                target.copy_with(host=str(address)),
                content=body,
                headers=headers,
                # The certificate is the name's, not the address's.
                extensions={"sni_hostname": target.host},
            ) as response:
                return response.status_code
        except httpx.HTTPError as error:
            raise OutboundFailed(str(error) or type(error).__name__) from error

    async def _checked(self, target: httpx.URL) -> Address:
        """An address of the target's name; all of them may be called."""
        port = target.port or PORTS[target.scheme]
        try:
            found = await asyncio.get_running_loop().getaddrinfo(target.host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise OutboundFailed(f"{target.host}: {error.strerror}") from error
        addresses = [ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
        for address in addresses:
            if not self._may_be_called(address):
                raise OutboundRefused(
                    f"{target.host} is at {address}, which is not public; the operator can allow it"
                    " (MAQUETTE_OUTBOUND_ALLOW)"
                )
        return addresses[0]

    def _may_be_called(self, address: Address) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        plain = mapped or address
        if any(plain.version == network.version and plain in network for network in self._allowed):
            return True
        return plain.is_global and not plain.is_multicast


def read_networks(words: str) -> tuple[Network, ...]:
    """Networks written as `10.0.0.0/8, 192.168.1.5`.

    Raises:
        ValueError: a word is no network.
    """
    return tuple(ipaddress.ip_network(word.strip()) for word in words.split(",") if word.strip())
