"""What the assets slice asks of the database. Every query takes the tenant; those that clear up answer with it."""

from collections.abc import Collection

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.now import now_sql
from maquette.db.tables import assets, dataset_items, tenants
from maquette.pictures.limits import Checked


class UploadedAsset(Struct, frozen=True, kw_only=True):
    """An asset whose bytes have arrived.

    Attributes:
        id: its id.
        format: of the bytes, whatever was declared.
        sha256: of the bytes under `upload_key`, hex.
        upload_key: the object of the latest upload.
        sealed_key: the sealed copy of these very bytes, or None while there is none.
    """

    id: str
    format: str
    sha256: str
    upload_key: str
    sealed_key: str | None


class AssetRef(Struct, frozen=True):
    """An asset and whose it is."""

    tenant_id: str
    id: str


class AssetObjects(Struct, frozen=True):
    """What an asset's rows say of its objects.

    Attributes:
        named: keys that its row or a dataset names.
        sha256: of the bytes of the latest upload.
        closed: whether no upload will ever be recorded any more.
    """

    named: frozenset[str]
    sha256: str | None
    closed: bool


async def add(conn: AsyncConnection, tenant_id: str, asset_id: str, extension: str, expires_at: float) -> None:
    """Insert an asset that waits for its bytes until `expires_at` (Unix seconds)."""
    await conn.execute(
        insert(assets).values(
            id=asset_id,
            tenant_id=tenant_id,
            extension=extension,
            created_at=now_sql(conn),
            upload_expires_at=expires_at,
        )
    )


async def uploaded(conn: AsyncConnection, tenant_id: str, asset_ids: Collection[str]) -> dict[str, UploadedAsset]:
    """Those of the assets that are the tenant's and have bytes, by id."""
    rows = await conn.execute(
        select(assets.c.id, assets.c.format, assets.c.sha256, assets.c.upload_key, assets.c.sealed_key).where(
            assets.c.tenant_id == tenant_id, assets.c.id.in_(asset_ids), assets.c.upload_key.is_not(None)
        )
    )
    return {row["id"]: UploadedAsset(**row) for row in rows.mappings()}


async def upload_key(conn: AsyncConnection, tenant_id: str, asset_id: str, late: float) -> str | None:
    """The object of the latest upload, None before the first.

    Raises:
        NoResultFound: no such asset, or its address expired more than `late` seconds ago.
    """
    query = select(assets.c.upload_key).where(_is(tenant_id, asset_id), ~_expired(conn, late))
    return (await conn.execute(query)).scalar_one()


async def repoint(
    conn: AsyncConnection, tenant_id: str, asset_id: str, late: float, *, seen: str | None, key: str, found: Checked
) -> bool:
    """Let an asset name a newer object; False where it names another one than `seen` by now, or it is too late."""
    statement = (
        update(assets)
        .where(_is(tenant_id, asset_id), ~_expired(conn, late), assets.c.upload_key.is_not_distinct_from(seen))
        .values(
            upload_key=key,
            uploaded_at=now_sql(conn),
            size=found.size,
            format=found.header.format,
            width=found.header.width,
            height=found.header.height,
            sha256=found.sha256,
            sealed_key=None,
        )
    )
    return (await conn.execute(statement)).rowcount == 1


async def set_sealed(conn: AsyncConnection, tenant_id: str, asset: UploadedAsset, sealed_key: str) -> bool:
    """Name the sealed copy of an asset's bytes; False where others were uploaded meanwhile, or the asset is gone."""
    result = await conn.execute(
        update(assets)
        .where(_is(tenant_id, asset.id), assets.c.upload_key == asset.upload_key)
        .values(sealed_key=sealed_key)
    )
    return result.rowcount == 1


async def untaken(conn: AsyncConnection, kept: float, limit: int) -> list[AssetRef]:
    """Assets, of any tenant, that no dataset has taken and whose address expired more than `kept` seconds ago."""
    query = select(assets.c.tenant_id, assets.c.id).where(_untaken(conn, kept)).order_by(assets.c.id).limit(limit)
    return [AssetRef(**row) for row in (await conn.execute(query)).mappings()]


async def delete_untaken(conn: AsyncConnection, asset: AssetRef, kept: float) -> bool:
    """Delete an asset; False where it was taken meanwhile."""
    statement = delete(assets).where(_is(asset.tenant_id, asset.id), _untaken(conn, kept))
    return (await conn.execute(statement)).rowcount == 1


async def objects_of(conn: AsyncConnection, asset_ids: Collection[str], kept: float) -> dict[AssetRef, AssetObjects]:
    """What is known of the objects of those assets that there are."""
    items = await conn.execute(
        select(dataset_items.c.asset_id, dataset_items.c.object_key).where(dataset_items.c.asset_id.in_(asset_ids))
    )
    taken: dict[str, set[str]] = {}
    for item in items:
        taken.setdefault(item.asset_id, set()).add(item.object_key)
    rows = await conn.execute(
        select(
            assets.c.tenant_id,
            assets.c.id,
            assets.c.upload_key,
            assets.c.sealed_key,
            assets.c.sha256,
            _expired(conn, kept).label("closed"),
        ).where(assets.c.id.in_(asset_ids))
    )
    return {
        AssetRef(row.tenant_id, row.id): AssetObjects(
            named=frozenset({row.upload_key, row.sealed_key, *taken.get(row.id, ())} - {None}),
            sha256=row.sha256,
            closed=row.closed,
        )
        for row in rows
    }


async def known_tenants(conn: AsyncConnection, tenant_ids: Collection[str]) -> set[str]:
    """Those of the tenants that there are."""
    return set(await conn.scalars(select(tenants.c.id).where(tenants.c.id.in_(tenant_ids))))


def _untaken(conn: AsyncConnection, kept: float) -> ColumnElement[bool]:
    # A task that takes the asset at this moment sets `sealed_key`, and so changes what a waiting statement looks at
    # again; its dataset's rows such a statement would not see.
    taken = exists().where(dataset_items.c.asset_id == assets.c.id)
    return and_(_expired(conn, kept), assets.c.sealed_key.is_(None), ~taken)


def _expired(conn: AsyncConnection, ago: float) -> ColumnElement[bool]:
    return assets.c.upload_expires_at < now_sql(conn) - ago


def _is(tenant_id: str, asset_id: str) -> ColumnElement[bool]:
    return and_(assets.c.tenant_id == tenant_id, assets.c.id == asset_id)
