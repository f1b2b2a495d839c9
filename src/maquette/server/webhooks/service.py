"""Addresses of webhooks as requests bring them."""

from maquette.core.errors import InvalidRequest
from maquette.server.webhooks.address import InvalidAddress, read_address
from maquette.server.webhooks.reach import Reach


def check_address(url: str, reach: Reach, *, field: str) -> None:
    """Refuse an address that no call will ever reach. What a name resolves to is found out when it is called.

    Raises:
        InvalidRequest: the message begins with `field`.
    """
    try:
        literal = read_address(url).literal
    except InvalidAddress as error:
        raise InvalidRequest(field, str(error)) from None
    if literal is not None and not reach.includes(literal):
        raise InvalidRequest(
            field,
            f"must be a public address, and {literal} is not; the operator can allow it (MAQUETTE_OUTBOUND_ALLOW)",
        )
