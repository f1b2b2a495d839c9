"""Uploaded pictures: a signed address, the bytes that arrive there, and the sealed copy that a task takes.

Every upload goes to a key of its own, so no object is ever written twice; the row names the newest. Objects come
before rows: a crash in between leaves an object that no row names, never a row that names nothing. Such objects, and
assets that nobody takes, are cleared up later: a row goes before its objects, and an object only when no row names it
or can come to name it, so that clearing up may itself be cut off anywhere.
"""

import asyncio
from collections.abc import AsyncIterable, Collection, Sequence

from msgspec import Struct
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.ids import new_asset_id, new_id
from maquette.core.picture_format import PictureFormat
from maquette.db.now import now
from maquette.pictures.limits import Checked, PictureCheck, PictureLimits
from maquette.server.assets import repository
from maquette.server.assets.repository import AssetObjects, AssetRef, UploadedAsset
from maquette.server.signing import Signer
from maquette.storage.base import ObjectMissing, Storage

COPIES_AT_ONCE = 8
LATEST = 1800.0
"""Seconds after its address expired by which an upload that began in time must have ended.

Half the shortest time that unused uploads are kept (`Settings.keep_unused_uploads`): what is being recorded is done
by then."""
UPLOADS = "uploads"
SEALED = "sealed"


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
    key = f"{UPLOADS}/{tenant_id}/{asset_id}/{new_id()}"
    check = PictureCheck(limits)
    await storage.put_stream(key, check.passing(chunks))
    return StoredUpload(key, check.result())


async def record(conn: AsyncConnection, tenant_id: str, asset_id: str, stored: StoredUpload) -> str | None:
    """Let the asset name its newest object; answers the one before, which the caller deletes after the commit.

    Raises:
        MaquetteError: UPLOAD_URL_EXPIRED, where the last byte came too late.
    """
    while True:
        try:
            seen = await repository.upload_key(conn, tenant_id, asset_id, LATEST)
        except NoResultFound:
            raise MaquetteError(
                ErrorReason.UPLOAD_URL_EXPIRED,
                f"the upload ended more than {LATEST:.0f} s after its address had expired; ask for a new one",
            ) from None
        if await repository.repoint(conn, tenant_id, asset_id, LATEST, seen=seen, key=stored.key, found=stored.found):
            return seen


async def uploaded(conn: AsyncConnection, tenant_id: str, asset_ids: Collection[str]) -> dict[str, UploadedAsset]:
    """Those of the assets that are the tenant's and have bytes, by id."""
    return await repository.uploaded(conn, tenant_id, asset_ids)


async def seal(storage: Storage, tenant_id: str, assets: Collection[UploadedAsset]) -> list[SealedAsset]:
    """Copy each asset's bytes to a key that nobody writes again. Nothing to do for those sealed before.

    Raises:
        MaquetteError: CONFLICT, where an asset was uploaded anew or cleared away while it was sealed.
    """
    turnstile = asyncio.Semaphore(COPIES_AT_ONCE)

    async def seal_one(asset: UploadedAsset) -> SealedAsset:
        async with turnstile:
            return await _seal_one(storage, tenant_id, asset)

    return await asyncio.gather(*map(seal_one, assets))


async def _seal_one(storage: Storage, tenant_id: str, asset: UploadedAsset) -> SealedAsset:
    if asset.sealed_key:
        return SealedAsset(asset, asset.sealed_key)
    key = f"{SEALED}/{tenant_id}/{asset.id}/{asset.sha256}"
    try:
        await storage.copy(asset.upload_key, key)
    except ObjectMissing:
        raise _overtaken(asset) from None
    return SealedAsset(asset, key)


async def remember_sealed(conn: AsyncConnection, tenant_id: str, sealed: Sequence[SealedAsset]) -> None:
    """Name the sealed copies: what is named stays, and spares the next task the copying.

    In one order for everybody, so that no two transactions wait for each other.

    Raises:
        MaquetteError: CONFLICT, where an asset was uploaded anew or cleared away after it was sealed.
    """
    for one in sorted(sealed, key=lambda one: one.asset.id):
        if one.asset.sealed_key is None and not await repository.set_sealed(conn, tenant_id, one.asset, one.key):
            raise _overtaken(one.asset)


def _overtaken(asset: UploadedAsset) -> MaquetteError:
    return MaquetteError(
        ErrorReason.CONFLICT,
        f"assets_id {asset.id}: its picture was replaced or cleared away just now; send the request again",
    )


async def untaken(conn: AsyncConnection, kept: float, limit: int) -> list[AssetRef]:
    """Assets, of any tenant, that no task has taken and whose upload expired more than `kept` seconds ago."""
    return await repository.untaken(conn, kept, limit)


async def forget(conn: AsyncConnection, asset: AssetRef, kept: float) -> bool:
    """Delete an untaken asset's row; False where a task took it meanwhile. Its objects are `unnamed` from then on."""
    return await repository.delete_untaken(conn, asset, kept)


async def unnamed(conn: AsyncConnection, keys: Collection[str], kept: float) -> list[str]:
    """Those of the objects that no row names and none will ever name.

    Objects of tenants that this database does not know are left alone: they are another installation's.
    """
    owners = {key: AssetRef(*parts[1:3]) for key in keys if len(parts := key.split("/")) == 4}
    tenants = await repository.known_tenants(conn, {owner.tenant_id for owner in owners.values()})
    known = await repository.objects_of(conn, {owner.id for owner in owners.values()}, kept)
    return [
        key for key, owner in owners.items() if owner.tenant_id in tenants and not _may_be_named(key, known.get(owner))
    ]


def _may_be_named(key: str, asset: AssetObjects | None) -> bool:
    """Whether a row names the object, or can come to.

    An upload is named in the same request, soon after its asset's address expired at the latest. A copy of the bytes
    that the row speaks of is named by the next task that takes them; a copy of other bytes never again.
    """
    if asset is None:
        return False
    return key in asset.named or not asset.closed or key.endswith(f"/{asset.sha256}")
