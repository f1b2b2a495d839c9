"""What the bases slice asks of the database. Bases are the operator's and open to every tenant."""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import case, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.counters import ALL_BASES, next_number
from maquette.db.dialects import insert
from maquette.db.now import now_sql
from maquette.db.tables import base_aliases, bases


class Base(Struct, frozen=True, kw_only=True):
    """A registered model.

    Attributes:
        name: as tasks ask for it.
        kind: what it is for (`BaseKind`); only checkpoints can be trained on.
        family: its architecture.
        location: its folder in diffusers layout; an embedding's file.
        sha256: over everything that decides what it draws.
        text_width: numbers in a vector of the text encoder; None where that is not known.
        latent_channels: of the autoencoder; None where that is not known.
    """

    name: str
    kind: str
    family: str
    location: str
    sha256: str
    text_width: int | None = None
    latent_channels: int | None = None


class Alias(Struct, frozen=True):
    """Another name of a base, given by the operator."""

    alias: str
    base_name: str


async def put(conn: AsyncConnection, base: Base, file_name: str, spellings: Sequence[str]) -> None:
    """Register a base; one of the same name is replaced and keeps its number. Aliases that are `spellings` of it go."""
    await conn.execute(delete(base_aliases).where(base_aliases.c.alias.in_(spellings)))
    values = asdict(base) | {"file_name": file_name}
    number = await conn.scalar(select(bases.c.number).where(bases.c.name == base.name))
    if number is None:
        number = await next_number(conn, ALL_BASES)
    statement = insert(conn, bases).values(number=number, created_at=now_sql(conn), **values)
    await conn.execute(statement.on_conflict_do_update(index_elements=[bases.c.name], set_=values))


async def find(conn: AsyncConnection, name: str) -> Base | None:
    """The base of exactly this name."""
    row = (await conn.execute(_BASES.where(bases.c.name == name))).mappings().one_or_none()
    return Base(**row) if row else None


async def find_called(conn: AsyncConnection, names: Sequence[str]) -> list[Base]:
    """The bases that have one of these names, or an alias among them: those of earlier names first.

    A base's own name goes before an alias.
    """
    place = {name: position for position, name in enumerate(names)}
    own = case(place, value=bases.c.name, else_=len(place))
    other = case(place, value=base_aliases.c.alias, else_=len(place))
    query = (
        _BASES.outerjoin_from(bases, base_aliases, base_aliases.c.base_name == bases.c.name)
        .where(or_(bases.c.name.in_(names), base_aliases.c.alias.in_(names)))
        .order_by(case((own <= other, own), else_=other), own)
    )
    found = [Base(**row) for row in (await conn.execute(query)).mappings()]
    return list({base.name: base for base in found}.values())


async def all_bases(conn: AsyncConnection) -> list[Base]:
    """Every base by name."""
    return [Base(**row) for row in (await conn.execute(_BASES.order_by(bases.c.name))).mappings()]


async def put_alias(conn: AsyncConnection, alias: Alias) -> None:
    """Give a base another name; a base that had it loses it."""
    statement = insert(conn, base_aliases).values(created_at=now_sql(conn), **asdict(alias))
    changed = {"base_name": alias.base_name}
    await conn.execute(statement.on_conflict_do_update(index_elements=[base_aliases.c.alias], set_=changed))


async def delete_alias(conn: AsyncConnection, alias: str) -> bool:
    """Forget an alias; False where there is none."""
    statement = delete(base_aliases).where(base_aliases.c.alias == alias).returning(base_aliases.c.alias)
    return await conn.scalar(statement) is not None


async def all_aliases(conn: AsyncConnection) -> list[Alias]:
    """Every alias by name."""
    query = select(base_aliases.c.alias, base_aliases.c.base_name).order_by(base_aliases.c.alias)
    return [Alias(*row) for row in await conn.execute(query)]


_BASES = select(*(bases.c[field] for field in Base.__struct_fields__))
