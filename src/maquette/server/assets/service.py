"""Uploaded pictures: a signed address, the bytes that arrive there, and the sealed copy that a task takes.

Every upload goes to a key of its own, so no object is ever written twice; the row names the newest. Objects come
before rows: a crash in between leaves an object that no row names, never a row that names nothing.
"""

import asyncio
from collections.abc import AsyncIterable, Collection, Sequence

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.ids import new_asset_id, new_id
from maquette.db.now import now
from maquette.pictures.limits import Checked, PictureCheck, PictureLimits
from maquette.pictures.sniff import PictureFormat
from maquette.server.assets import repository
from maquette.server.assets.repository import UploadedAsset
from maquette.server.signing import Signer
from maquette.storage.base import ObjectMissing, Storage

COPIES_AT_ONCE = 8


class NewAsset(Struct, frozen=True):
    """An asset that waits for its bytes, and the path with its signature where they may be sent."""

    id: str
    upload_path: str


class StoredUpload(Struct, frozen=True):
    """Bytes that arrived whole: the object that holds them, and what was found in them."""

    key: str
    found: Checked


class SealedAsset(Struct, frozen=True):
    """An asset's bytes under a key that nobody writes again."""

    asset: UploadedAsset
    key: str


async def create(conn: AsyncConnection, signer: Signer, tenant_id: str, extension: PictureFormat, ttl: int) -> NewAsset:
    """A new asset whose address may be used for `ttl` seconds."""
    asset_id = new_asset_id()
    expires = int(await now(conn)) + ttl
    await repository.add(conn, tenant_id, asset_id, extension, expires)
    return NewAsset(asset_id, signer.sign("PUT", f"/uploads/{tenant_id}/{asset_id}.{extension}", expires))


async def store(
    storage: Storage, tenant_id: str, asset_id: str, chunks: AsyncIterable[bytes], limits: PictureLimits
) -> StoredUpload:
    """Store one upload under a key of its own while checking it; whatever is wrong with it leaves no object.

    Raises:
        MaquetteError: it is too large, or no whole picture of a format we take.
    """
    key = f"uploads/{tenant_id}/{asset_id}/{new_id()}"
    check = PictureCheck(limits)
    await storage.put_stream(key, check.passing(chunks))
    return StoredUpload(key, check.result())


async def record(conn: AsyncConnection, tenant_id: str, asset_id: str, stored: StoredUpload) -> str | None:
    """Let the asset name its newest object; answers the one before, which the caller deletes after the commit."""
    while True:
        seen = await repository.upload_key(conn, tenant_id, asset_id)
        if await repository.repoint(conn, tenant_id, asset_id, seen=seen, key=stored.key, found=stored.found):
            return seen


async def uploaded(conn: AsyncConnection, tenant_id: str, asset_ids: Collection[str]) -> dict[str, UploadedAsset]:
    """Those of the assets that are the tenant's and have bytes, by id."""
    return await repository.uploaded(conn, tenant_id, asset_ids)


async def seal(storage: Storage, tenant_id: str, assets: Collection[UploadedAsset]) -> list[SealedAsset]:
    """Copy each asset's bytes to a key that nobody writes again. Nothing to do for those sealed before.

    Raises:
        MaquetteError: CONFLICT, where an asset was uploaded anew while it was sealed.
    """
    turnstile = asyncio.Semaphore(COPIES_AT_ONCE)

    async def seal_one(asset: UploadedAsset) -> SealedAsset:
        async with turnstile:
            return await _seal_one(storage, tenant_id, asset)

    return await asyncio.gather(*map(seal_one, assets))


async def _seal_one(storage: Storage, tenant_id: str, asset: UploadedAsset) -> SealedAsset:
    if asset.sealed_key:
        return SealedAsset(asset, asset.sealed_key)
    key = f"sealed/{tenant_id}/{asset.id}/{asset.sha256}"
    try:
        await storage.copy(asset.upload_key, key)
    except ObjectMissing:
        raise MaquetteError(
            ErrorReason.CONFLICT,
            f"assets_id {asset.id}: another picture was uploaded under this id just now; send the request again",
        ) from None
    return SealedAsset(asset, key)


async def remember_sealed(conn: AsyncConnection, tenant_id: str, sealed: Sequence[SealedAsset]) -> None:
    """Spare the next task the copies. In one order for everybody, so that no two transactions wait for each other."""
    for one in sorted(sealed, key=lambda one: one.asset.id):
        if one.asset.sealed_key is None:
            await repository.set_sealed(conn, tenant_id, one.asset, one.key)
