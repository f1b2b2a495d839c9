"""Calls about uploads."""

from typing import Any
from urllib.parse import urlsplit

from litestar import MediaType, Request, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, SkipValidation

from maquette.core.errors import MaquetteError
from maquette.db.engine import Database
from maquette.db.now import now
from maquette.server.assets import service
from maquette.server.assets.schemas import HeaderValues, UploadAddress, UploadBody, UploadRequest
from maquette.server.http_errors import CREATING_ERRORS, ERRORS
from maquette.server.idempotency import Idempotency
from maquette.server.settings import Settings
from maquette.server.signing import Signer
from maquette.storage.base import Storage


@post("/assets/training_dataset", dto=UploadBody, return_dto=None, status_code=200, responses=CREATING_ERRORS)
async def create_asset(
    tenant_id: NamedDependency[str],
    data: JSONBody[UploadRequest],
    database: NamedDependency[Database],
    signer: NamedDependency[Signer],
    settings: NamedDependency[Settings],
    once: NamedDependency[Idempotency],
    base_url: NamedDependency[str],
) -> UploadAddress:
    """Ask for an address to upload one picture to."""
    async with database.write() as conn:
        if earlier := await once.claim(conn, UploadAddress):
            return earlier
        asset = await service.create(conn, signer, tenant_id, data.file_extension, settings.upload_ttl)
        address = UploadAddress(
            assets_id=asset.id,
            upload_url=base_url + asset.upload_path,
            method="PUT",
            headers={"Host": HeaderValues([urlsplit(base_url).netloc])},
        )
        await once.remember(conn, address)
    return address


@put(
    "/uploads/{owner:str}/{name:str}",
    status_code=200,
    media_type=MediaType.TEXT,
    request_max_body_size=None,
    responses=ERRORS,
)
async def receive_upload(
    request: Request[Any, Any, Any],
    owner: FromPath[str],
    name: FromPath[str],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    signer: NamedDependency[Signer],
    settings: NamedDependency[Settings],
    expires: FromQuery[str] = "",
    signature: FromQuery[str] = "",
) -> None:
    """Send a picture's bytes as the body; the address itself is the permission. May be repeated until it expires."""
    async with database.read() as conn:
        signer.check("PUT", f"/uploads/{owner}/{name}", expires, signature, await now(conn))
    settings.picture_limits.check_bytes(request.content_length or 0)
    asset_id = name.partition(".")[0]
    stored = await service.store(storage, owner, asset_id, request.stream(), settings.picture_limits)
    try:
        async with database.write() as conn:
            superfluous = await service.record(conn, owner, asset_id, stored)
    except MaquetteError:
        await storage.delete(stored.key)
        raise
    if superfluous:
        await storage.delete(superfluous)
