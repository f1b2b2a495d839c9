"""The one way out: calls to addresses that tenants name.

A tenant's address must not reach what only this house can reach. A name is resolved once for each call, every address
it has must be within reach, and the connection goes to an address that was checked, whatever the name says a moment
later. Redirects are not followed, no body is read, and no call knows anything of another: neither cookies nor
connections outlive one.
"""

import asyncio
from collections.abc import Sequence

import httpx

from maquette.server.webhooks.address import InvalidAddress, WebhookAddress, read_address
from maquette.server.webhooks.lookups import Lookups, Place
from maquette.server.webhooks.reach import Address, Reach


class OutboundRefused(Exception):
    """The address may not be called, now or later; the message says why."""


class OutboundFailed(Exception):
    """The call came to no answer; the message says why."""


class Outbound:
    """Posts JSON to addresses outside.

    Attributes:
        timeout: seconds for a whole call, from looking up its name on.
    """

    def __init__(self, reach: Reach, timeout: float) -> None:
        self._reach = reach
        self.timeout = timeout
        # The authorities that come with httpx, or those of SSL_CERT_FILE. Made once: it takes a while.
        self._tls = httpx.create_ssl_context()
        self._lookups = Lookups()

    async def place(self, tenant_id: str) -> Place | None:
        """Leave for one call of a tenant's; None where so many of its names are being looked up that none came free
        within the time of a call.
        """
        try:
            async with asyncio.timeout(self.timeout):
                return await self._lookups.place(tenant_id)
        except TimeoutError:
            return None

    async def post(self, place: Place, url: str, body: bytes) -> int:
        """Post a JSON body; answers the status.

        Raises:
            OutboundRefused, OutboundFailed: see there.
        """
        try:
            target = read_address(url)
        except InvalidAddress as error:
            raise OutboundRefused(f"the address {error}") from None
        try:
            async with asyncio.timeout(self.timeout):
                return await self._post(target, await self._resolved(place, target), body)
        except TimeoutError:
            raise OutboundFailed(f"no answer within {self.timeout:g} s") from None

    def close(self) -> None:
        """Begin no look-up any more."""
        self._lookups.close()

    async def _resolved(self, place: Place, target: WebhookAddress) -> list[Address]:
        """All addresses of the target's name; each may be called."""
        try:
            addresses = await place.look_up(target.host, target.port)
        except (OSError, UnicodeError) as error:
            raise OutboundFailed(f"{target.host} can't be resolved: {error}") from error
        for address in addresses:
            if not self._reach.includes(address):
                raise OutboundRefused(
                    f"{target.host} is at {address}, which is not public; the operator can allow it"
                    " (MAQUETTE_OUTBOUND_ALLOW)"
                )
        return addresses

    async def _post(self, target: WebhookAddress, addresses: Sequence[Address], body: bytes) -> int:
        """Post to the first address that takes a connection: a name may have one that can't be reached from here."""
        problem = f"{target.host} has no address"
        for address in addresses:
            try:
                return await self._post_to(address, target, body)
            except httpx.ConnectError as error:
                problem = _words(error)
            except httpx.HTTPError as error:
                raise OutboundFailed(_words(error)) from error
        raise OutboundFailed(problem)

    async def _post_to(self, address: Address, target: WebhookAddress, body: bytes) -> int:
        client = httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, timeout=self.timeout)
        async with (
            client,
            client.stream(
                "POST",
                target.url.copy_with(host=str(address)),
                content=body,
                headers={"Host": target.authority, "Content-Type": "application/json"},
                # The certificate is the name's, not the address's.
                extensions={"sni_hostname": target.host},
            ) as response,
        ):
            return response.status_code


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
