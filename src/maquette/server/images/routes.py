"""Calls about pictures."""

import asyncio
from typing import Annotated

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter, SkipValidation
from litestar.response import Stream

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.ids import new_task_id
from maquette.core.image_specs import ImageBody, ImageKind, ImageToImageBody, TextToImageBody
from maquette.core.picture_format import PictureFormat
from maquette.db.engine import Database
from maquette.db.now import now
from maquette.server.http_errors import CREATES_TASK, DRAWING_ERRORS, ERRORS, GETS_RESULT, RESULT_ERRORS
from maquette.server.idempotency import Idempotency
from maquette.server.images import creation, service
from maquette.server.images.creation import Original
from maquette.server.images.schemas import CreatedImageTask, ImageToImageWire, TaskResult, TextToImageWire
from maquette.server.images.service import Addresses
from maquette.server.settings import Settings
from maquette.server.signing import IMAGE, Signer
from maquette.storage.base import ObjectMissing, Storage

TaskIdQuery = Annotated[str, QueryParameter(name="task_id", description="The image task's id.")]


@post(
    "/async/txt2img",
    dto=TextToImageWire,
    return_dto=None,
    status_code=200,
    responses=DRAWING_ERRORS,
    opt=CREATES_TASK,
)
async def text_to_image(
    tenant_id: NamedDependency[str],
    data: JSONBody[TextToImageBody],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    settings: NamedDependency[Settings],
    once: NamedDependency[Idempotency],
    base_url: NamedDependency[str],
) -> CreatedImageTask:
    """Draw pictures from words."""
    return await _create(ImageKind.TEXT, tenant_id, data, None, base_url, database, storage, settings, once)


@post(
    "/async/img2img",
    dto=ImageToImageWire,
    return_dto=None,
    status_code=200,
    responses=DRAWING_ERRORS,
    opt=CREATES_TASK,
)
async def image_to_image(
    tenant_id: NamedDependency[str],
    data: JSONBody[ImageToImageBody],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    settings: NamedDependency[Settings],
    once: NamedDependency[Idempotency],
    base_url: NamedDependency[str],
) -> CreatedImageTask:
    """Draw pictures from words and a picture."""
    original = await asyncio.to_thread(creation.read_original, data.request.image_base64, settings.original_limits)
    return await _create(ImageKind.IMAGE, tenant_id, data, original, base_url, database, storage, settings, once)


async def _create(
    kind: ImageKind,
    tenant_id: str,
    body: ImageBody,
    original: Original | None,
    public_url: str,
    database: Database,
    storage: Storage,
    settings: Settings,
    once: Idempotency,
) -> CreatedImageTask:
    async with database.read() as conn:
        if earlier := await once.answer(conn, CreatedImageTask):
            return earlier
        draft = await creation.draft(conn, settings, tenant_id, kind, body)
    created = CreatedImageTask(new_task_id())
    key = await creation.store_original(storage, tenant_id, created.task_id, original) if original else None
    async with database.write() as conn:
        earlier = await once.claim(conn, CreatedImageTask)
        if earlier is None:
            await creation.create(
                conn, settings, tenant_id, created.task_id, draft, original_key=key, public_url=public_url
            )
            await once.remember(conn, created)
    if earlier and key:
        await storage.delete(key)
    return earlier or created


@get("/async/task-result", responses=RESULT_ERRORS, opt=GETS_RESULT)
async def task_result(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    signer: NamedDependency[Signer],
    settings: NamedDependency[Settings],
    base_url: NamedDependency[str],
    task_id: TaskIdQuery,
) -> TaskResult:
    """Status of an image task, and its pictures once they are drawn."""
    addresses = Addresses(signer, base_url, settings.image_url_ttl)
    async with database.read() as conn:
        return await service.result(conn, tenant_id, task_id, addresses, kept=settings.keep_images)


@get("/images/{owner:str}/{task_id:str}/{attempt:str}/{name:str}", responses=ERRORS)
async def picture(
    owner: FromPath[str],
    task_id: FromPath[str],
    attempt: FromPath[str],
    name: FromPath[str],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    signer: NamedDependency[Signer],
    expires: FromQuery[str] = "",
    signature: FromQuery[str] = "",
) -> Stream:
    """A drawn picture; the address itself is the permission."""
    key = f"images/{owner}/{task_id}/{attempt}/{name}"
    async with database.read() as conn:
        signer.check("GET", f"/{key}", expires, signature, await now(conn), purpose=IMAGE)
    try:
        info = await storage.head(key)
    except ObjectMissing:
        raise MaquetteError(ErrorReason.IMAGE_NOT_FOUND, "the picture is not kept any more") from None
    media_type = PictureFormat(name.rpartition(".")[2]).content_type
    return Stream(storage.stream(key), headers={"content-length": str(info.size)}, media_type=media_type)
