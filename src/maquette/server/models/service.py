"""Trained models, from their birth over the parity gate to whoever draws with them or lists them."""

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import PurePosixPath

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.bases.catalogue import BaseKind, stem
from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.ids import model_name
from maquette.core.picture_format import PictureFormat
from maquette.db.move import CreatedModel, create_model
from maquette.db.now import now
from maquette.families.registry import FamilySpec, specs
from maquette.server.models import gate, repository
from maquette.server.models.queries import ModelQuery, write_offset
from maquette.server.models.repository import SDXL, SHOWN_OF_HASH, ListedModel, Lora, ModelFilter, UnjudgedModel
from maquette.server.models.schemas import (
    ModelList,
    ModelPagination,
    ModelRow,
    ModelType,
    Source,
    TypeEntry,
    Visibility,
)
from maquette.server.signing import Signer

WEIGHTS_SUFFIX = ".safetensors"
SAMPLE_SUFFIX = f".{PictureFormat.PNG}"
STANDARD = "Standard"
"""The one `base_model_type` there is; bases made for inpainting are of no family here."""
PUBLIC_IDS = 1_000_000_000
"""Added to the numbers of the operator's models, so that no tenant's own ever has the same id. Both fit in 32 bits."""

TYPES: Mapping[str, ModelType] = {
    "lora": ModelType.LORA,
    BaseKind.CHECKPOINT: ModelType.CHECKPOINT,
    BaseKind.REFINER: ModelType.CHECKPOINT,
    BaseKind.VAE: ModelType.VAE,
    BaseKind.EMBEDDING: ModelType.TEXTUAL_INVERSION,
    BaseKind.UPSCALER: ModelType.UPSCALER,
}
"""Published types by what a model is for."""

DISPLAY_NAMES: Mapping[ModelType, str] = {
    ModelType.CHECKPOINT: "Checkpoint",
    ModelType.LORA: "LORA",
    ModelType.VAE: "VAE",
    ModelType.CONTROLNET: "ControlNet",
    ModelType.UPSCALER: "Upscaler",
    ModelType.TEXTUAL_INVERSION: "Textual Inversion",
}

WITHOUT_EXTENSION = frozenset({ModelType.LORA, ModelType.TEXTUAL_INVERSION})
"""What requests call by its file's stem."""


async def birth(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    task_id: str,
    finished_at: int,
    object_key: str,
    sample_key: str,
    size: int,
    sha256: str,
) -> CreatedModel:
    """Give a task its model, DEPLOYING; belongs in the transaction that moves the task to SUCCESS.

    The objects are stored and verified already; `size` (bytes) and `sha256` (hex) are those of the weights. The name
    is the published one, of the second `finished_at` (Unix), or of a later one where an equal LoRA has that name.
    """
    name = model_name(finished_at, sha256)
    while await repository.is_taken(conn, tenant_id, name):
        finished_at += 1
        name = model_name(finished_at, sha256)
    return await create_model(
        conn,
        tenant_id=tenant_id,
        task_id=task_id,
        name=name,
        object_key=object_key,
        sample_key=sample_key,
        size=size,
        sha256=sha256,
    )


async def find_lora(conn: AsyncConnection, tenant_id: str, name: str) -> Lora | None:
    """A tenant's trained model by its published file name, with or without the extension."""
    return await repository.find_lora(conn, tenant_id, [name, name + WEIGHTS_SUFFIX])


# ------------------------------------------------------------------------------------------------------ the gate


def worker_text(versions: Mapping[str, str]) -> str:
    """What a verdict says of the worker that drew (its `Pool.versions`), and of the bounds it is held to."""
    worker = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"{worker}, bounds {gate.BOUNDS}"


def judged_with(worker: str, model: UnjudgedModel) -> str:
    """What a model's verdict holds for: the worker, and the base; see `Judgement`."""
    sha256 = model.spec.base.sha256[:SHOWN_OF_HASH].upper()
    return f"{worker} on {model.base_name} {sha256}" if model.base_name else f"{worker} on {repository.NO_BASE}"


async def any_rejected(conn: AsyncConnection) -> bool:
    """Whether there is a model, of any tenant, that another worker may have to judge again."""
    return await repository.any_rejected(conn)


async def to_judge(conn: AsyncConnection, workers: Collection[str], limit: int) -> list[UnjudgedModel]:
    """Models, of any tenant, that the parity gate has to judge now, oldest first.

    Those are the pending ones, and the rejected ones that none of `workers` (`worker_text`) has judged with their base
    by the name it has now, as far as it is registered. While no worker is known, the pending ones alone.
    """
    return await repository.unjudged(conn, workers, limit)


async def postpone(
    conn: AsyncConnection, model: UnjudgedModel, pause: float, why: str, *, lost_workers: int = 0
) -> None:
    """Let a model that came to no verdict wait `pause` seconds, tell its owner why, and count that.

    `lost_workers` is how many it has cost in a row by now.
    """
    await repository.postpone(conn, model.tenant_id, model.id, pause, why, lost_workers=lost_workers)


# ------------------------------------------------------------------------------------------------------ the list


async def list_models(
    conn: AsyncConnection, signer: Signer, tenant_id: str, query: ModelQuery, *, base_url: str, ttl: int
) -> ModelList:
    """One page of the tenant's own models, newest first, and the operator's behind them.

    `base_url` is what addresses begin with; they are good for `ttl` seconds.
    """
    rows = await repository.list_page(conn, tenant_id, _wanted(query), limit=query.limit, offset=query.offset)
    expires = int(await now(conn)) + ttl

    def address(path: str) -> str:
        return base_url + signer.sign("GET", path, expires)

    entries = [
        _private_row(row, address(_path(tenant_id, row.file_name)), address(_cover_path(tenant_id, row.file_name)), ttl)
        if row.is_private
        else _public_row(row)
        for row in rows
    ]
    return ModelList(entries, ModelPagination(write_offset(query.offset + query.limit) if rows else ""))


async def download(conn: AsyncConnection, tenant_id: str, name: str) -> str:
    """Key of the object that is given out under this name: a model's weights, or the picture drawn with them.

    Raises:
        MaquetteError: MODEL_NOT_FOUND, where there is no such model any more.
    """
    path = PurePosixPath(name)
    objects = await repository.find_objects(conn, tenant_id, path.stem + WEIGHTS_SUFFIX)
    if objects is None:
        raise MaquetteError(ErrorReason.MODEL_NOT_FOUND, "no such model")
    return objects.sample_key if path.suffix == SAMPLE_SUFFIX else objects.object_key


def _wanted(query: ModelQuery) -> ModelFilter:
    """Nothing here is made for inpainting, or known to be unfit for some eyes: to ask for such alone finds nothing."""
    everywhere = query.is_inpainting is not True and query.is_nsfw is not True
    kinds = [kind for kind, published in TYPES.items() if published in query.types]
    return ModelFilter(
        private=everywhere
        and query.visibility is not Visibility.PUBLIC
        and query.source in (None, Source.TRAINING)
        and (not query.types or ModelType.LORA in query.types),
        public=everywhere and query.visibility is not Visibility.PRIVATE and query.source in (None, Source.UPLOADING),
        kinds=kinds if query.types else None,
        is_sdxl=query.is_sdxl,
        words=query.words,
    )


def _private_row(row: ListedModel, download_url: str, cover_url: str, ttl: int) -> ModelRow:
    return _row(
        row,
        id=row.number,
        status=int(not row.is_rejected),
        source=Source.TRAINING,
        download_url=download_url,
        download_url_ttl=ttl,
        cover_url=cover_url,
    )


def _public_row(row: ListedModel) -> ModelRow:
    """Its weights stay with the operator. It can be used if this installation knows its family.

    A refiner can't be: it is published as a checkpoint, and what is said to be usable clients offer as `model_name`.
    """
    usable = row.family in _families() and row.kind != BaseKind.REFINER
    return _row(
        row,
        id=PUBLIC_IDS + row.number,
        status=int(usable),
        source=Source.UPLOADING,
        download_url="",
        download_url_ttl=0,
        cover_url="",
    )


def _row(
    row: ListedModel,
    *,
    id: int,  # noqa: A002 (the wire's name)
    status: int,
    source: Source,
    download_url: str,
    download_url_ttl: int,
    cover_url: str,
) -> ModelRow:
    kind = TYPES[row.kind]
    return ModelRow(
        id=id,
        name=row.name,
        sd_name=row.file_name,
        type=TypeEntry(kind, DISPLAY_NAMES[kind]),
        status=status,
        sd_name_in_api=stem(row.file_name) if kind in WITHOUT_EXTENSION else row.file_name,
        hash_sha256=row.sha256[:SHOWN_OF_HASH].upper(),
        categories=[],
        tags=[row.tag],
        download_url=download_url,
        download_url_ttl=download_url_ttl,
        cover_url=cover_url,
        source=source,
        base_model=_published_name(row.family),
        base_model_type=STANDARD,
        is_sdxl=row.family == SDXL,
        is_nsfw=False,
    )


def _published_name(family: str) -> str:
    spec = _families().get(family)
    return family if spec is None or spec.published_name is None else spec.published_name


@cache
def _families() -> Mapping[str, FamilySpec]:
    """Asked for once: to find packages takes longer than a list does."""
    return specs()


def _path(tenant_id: str, name: str) -> str:
    return f"/models/{tenant_id}/{name}"


def _cover_path(tenant_id: str, name: str) -> str:
    return _path(tenant_id, name.removesuffix(WEIGHTS_SUFFIX) + SAMPLE_SUFFIX)
