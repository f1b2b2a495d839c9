"""What the assets slice asks of the database. Every query takes the tenant."""

from collections.abc import Collection

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.now import now_sql
from maquette.db.tables import assets
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


async def upload_key(conn: AsyncConnection, tenant_id: str, asset_id: str) -> str | None:
    """The object of the latest upload, None before the first.

    Raises:
        NoResultFound: no such asset.
    """
    return (await conn.execute(select(assets.c.upload_key).where(_is(tenant_id, asset_id)))).scalar_one()


async def repoint(
    conn: AsyncConnection, tenant_id: str, asset_id: str, *, seen: str | None, key: str, found: Checked
) -> bool:
    """Let an asset name a newer object; False where it names another one than `seen` by now."""
    statement = (
        update(assets)
        .where(_is(tenant_id, asset_id), assets.c.upload_key.is_not_distinct_from(seen))
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


async def set_sealed(conn: AsyncConnection, tenant_id: str, asset: UploadedAsset, sealed_key: str) -> None:
    """Remember the sealed copy of an asset's bytes, unless others have been uploaded meanwhile."""
    await conn.execute(
        update(assets)
        .where(_is(tenant_id, asset.id), assets.c.upload_key == asset.upload_key)
        .values(sealed_key=sealed_key)
    )


def _is(tenant_id: str, asset_id: str) -> ColumnElement[bool]:
    return and_(assets.c.tenant_id == tenant_id, assets.c.id == asset_id)
