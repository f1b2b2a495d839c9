"""What the access slice asks of the database: the tables that say who a tenant is."""

from msgspec import Struct
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.ids import new_id
from maquette.db.dialects import insert
from maquette.db.now import now_sql
from maquette.db.tables import api_keys, tenants


class KeyRow(Struct, frozen=True, kw_only=True):
    """A stored key; instants in Unix seconds, `revoked_at` None while it is good."""

    lookup: str
    tenant_id: str
    tenant_name: str
    secret_hash: str
    created_at: float
    revoked_at: float | None


_KEYS = select(
    api_keys.c.lookup,
    api_keys.c.tenant_id,
    tenants.c.name.label("tenant_name"),
    api_keys.c.secret_hash,
    api_keys.c.created_at,
    api_keys.c.revoked_at,
).join_from(api_keys, tenants)


async def tenant_id(conn: AsyncConnection, name: str) -> str:
    """Id of the tenant of this name, created where there is none."""
    created = insert(conn, tenants).values(id=new_id(), name=name, created_at=now_sql(conn)).on_conflict_do_nothing()
    await conn.execute(created)
    return (await conn.execute(select(tenants.c.id).where(tenants.c.name == name))).scalar_one()


async def tenant_name(conn: AsyncConnection, tenant_id: str) -> str:
    """A tenant's name."""
    return (await conn.execute(select(tenants.c.name).where(tenants.c.id == tenant_id))).scalar_one()


async def add_key(conn: AsyncConnection, tenant: str, lookup: str, secret_hash: str) -> None:
    """Store a new key of a tenant."""
    values = {"id": new_id(), "tenant_id": tenant, "lookup": lookup, "secret_hash": secret_hash}
    await conn.execute(insert(conn, api_keys).values(**values, created_at=now_sql(conn)))


async def find_key(conn: AsyncConnection, lookup: str) -> KeyRow | None:
    """The key of this public part, revoked or not."""
    row = (await conn.execute(_KEYS.where(api_keys.c.lookup == lookup))).mappings().one_or_none()
    return KeyRow(**row) if row else None


async def list_keys(conn: AsyncConnection) -> list[KeyRow]:
    """Every key of every tenant, oldest first."""
    rows = await conn.execute(_KEYS.order_by(api_keys.c.created_at, api_keys.c.lookup))
    return [KeyRow(**row) for row in rows.mappings()]


async def revoke_key(conn: AsyncConnection, lookup: str) -> bool:
    """Revoke a key for good; False where there is none that is good."""
    statement = (
        update(api_keys)
        .where(api_keys.c.lookup == lookup, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now_sql(conn))
    )
    return (await conn.execute(statement)).rowcount == 1
