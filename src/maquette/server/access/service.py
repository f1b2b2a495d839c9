"""Tenants and their API keys. For operators, through the command line; for requests, through `authenticate`."""

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import ErrorReason, InvalidRequest, MaquetteError
from maquette.server.access import repository
from maquette.server.access.keys import draw_key, parse_header, parse_key

LONGEST_NAME = 255


class InvalidApiKey(MaquetteError):
    """No key, a wrong one or a revoked one: the answer is the same for all three."""

    def __init__(self) -> None:
        super().__init__(ErrorReason.INVALID_API_KEY, "invalid api-key")


class KeyInfo(Struct, frozen=True, kw_only=True):
    """What an operator may see of a key; instants in Unix seconds.

    Attributes:
        lookup: the key's public part, which follows `mq_`; what `revoke_key` takes.
        revoked_at: None while the key is good.
    """

    lookup: str
    tenant: str
    created_at: float
    revoked_at: float | None


async def create_key(conn: AsyncConnection, tenant: str) -> str:
    """A new key for the tenant of this name, who is created where there is none. Shown this once, never again.

    Raises:
        InvalidRequest: the name is empty or too long.
    """
    if not 1 <= len(tenant) <= LONGEST_NAME:
        raise InvalidRequest("tenant", f"must be a name of 1 to {LONGEST_NAME} characters")
    key = draw_key()
    await repository.add_key(conn, await repository.tenant_id(conn, tenant), key.lookup, key.secret_hash)
    return str(key)


async def list_keys(conn: AsyncConnection) -> list[KeyInfo]:
    """Every key, oldest first."""
    return [
        KeyInfo(lookup=row.lookup, tenant=row.tenant_name, created_at=row.created_at, revoked_at=row.revoked_at)
        for row in await repository.list_keys(conn)
    ]


async def revoke_key(conn: AsyncConnection, key: str) -> bool:
    """Refuse a key from the commit on; `key` is the whole key or its public part. False where no good key is meant."""
    parsed = parse_key(key)
    return await repository.revoke_key(conn, parsed.lookup if parsed else key)


async def authenticate(conn: AsyncConnection, header: str | None) -> str:
    """Id of the tenant whose key an Authorization header carries.

    Raises:
        InvalidApiKey: see there.
    """
    key = parse_header(header or "")
    row = await repository.find_key(conn, key.lookup) if key else None
    if key is None or row is None or not key.matches(row.secret_hash) or row.revoked_at is not None:
        raise InvalidApiKey
    return row.tenant_id
