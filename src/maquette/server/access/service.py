"""Tenants and their API keys. For operators, through the command line; for requests, through `authenticate`."""

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.requirements import read
from maquette.core.specs import Name
from maquette.server.access import repository
from maquette.server.access.keys import draw_key, parse_header, parse_key
from maquette.server.access.repository import KeyRow


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
    key = draw_key()
    tenant_id = await repository.tenant_id(conn, read(tenant, Name, "tenant"))
    await repository.add_key(conn, tenant_id, key.lookup, key.secret_hash)
    return str(key)


async def list_keys(conn: AsyncConnection) -> list[KeyInfo]:
    """Every key, oldest first."""
    return [_info(row) for row in await repository.list_keys(conn)]


async def revoke_key(conn: AsyncConnection, key: str) -> KeyInfo | None:
    """Refuse a key from the commit on, and say which; `key` is the whole key or its public part.

    None where no good key is meant.
    """
    parsed = parse_key(key)
    lookup = parsed.lookup if parsed else key
    if not await repository.revoke_key(conn, lookup):
        return None
    row = await repository.find_key(conn, lookup)
    return _info(row) if row else None


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


async def tenant_name(conn: AsyncConnection, tenant_id: str) -> str:
    """What the operator calls a tenant."""
    return await repository.tenant_name(conn, tenant_id)


def _info(row: KeyRow) -> KeyInfo:
    return KeyInfo(lookup=row.lookup, tenant=row.tenant_name, created_at=row.created_at, revoked_at=row.revoked_at)
