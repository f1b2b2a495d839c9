"""What the bases slice asks of the database. Bases are the operator's and open to every tenant."""

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.dialects import insert
from maquette.db.now import now_sql
from maquette.db.tables import bases


class Base(Struct, frozen=True, kw_only=True):
    """A registered base model.

    Attributes:
        name: as tasks ask for it.
        kind: what it is; only checkpoints can be trained on.
        family: its architecture.
        location: its folder in diffusers layout.
        sha256: over everything that decides what it draws.
    """

    name: str
    kind: str
    family: str
    location: str
    sha256: str


async def put(conn: AsyncConnection, base: Base) -> None:
    """Register a base; one of the same name is replaced."""
    values = {"kind": base.kind, "family": base.family, "location": base.location, "sha256": base.sha256}
    statement = insert(conn, bases).values(name=base.name, created_at=now_sql(conn), **values)
    await conn.execute(statement.on_conflict_do_update(index_elements=[bases.c.name], set_=values))


async def find(conn: AsyncConnection, name: str) -> Base | None:
    """The base of this name."""
    row = (await conn.execute(_BASES.where(bases.c.name == name))).mappings().one_or_none()
    return Base(**row) if row else None


async def all_bases(conn: AsyncConnection) -> list[Base]:
    """Every base by name."""
    return [Base(**row) for row in (await conn.execute(_BASES.order_by(bases.c.name))).mappings()]


_BASES = select(bases.c.name, bases.c.kind, bases.c.family, bases.c.location, bases.c.sha256)
