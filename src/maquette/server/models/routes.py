"""Calls about models."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter, SkipValidation
from litestar.response import Stream

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.picture_format import PictureFormat
from maquette.db.engine import Database
from maquette.db.now import now
from maquette.server.http_errors import ERRORS
from maquette.server.models import service
from maquette.server.models.queries import FALSE, TRUE, read_query
from maquette.server.models.schemas import ModelList, ModelType, Source, Visibility
from maquette.server.queries import Published
from maquette.server.settings import Settings
from maquette.server.signing import Purpose, Signer
from maquette.storage.base import ObjectMissing, Storage

MODEL = Purpose("model's", ErrorReason.MODEL_URL_INVALID, ErrorReason.MODEL_URL_EXPIRED)

# Choices and booleans are text, since the framework would read the word null as None and few of a boolean's forms.
FLAG = {"enum": ["", *TRUE, *FALSE]}
VisibilityFilter = Annotated[
    str,
    QueryParameter(
        name="filter.visibility",
        description="`private` for the tenant's own alone, `public` for the operator's alone.",
        schema_extra={"enum": ["", *map(str, Visibility)]},
    ),
]
SourceFilter = Annotated[
    str,
    QueryParameter(
        name="filter.source",
        description="`training` for trained models, `uploading` for those the operator registered.",
        schema_extra={"enum": ["", *map(str, Source)]},
    ),
    Published("limited: there is nothing of `civitai`"),
]
Types = Annotated[
    tuple[str, ...],
    QueryParameter(
        name="filter.types",
        description=f"{', '.join(f'`{name}`' for name in ModelType)}; several with commas or one by one.",
    ),
]
TypesMisspelt = Annotated[
    tuple[str, ...],
    QueryParameter(name="filter.type", description="The same as `filter.types`."),
    Published("extended: a client spells it so"),
]
SdxlFilter = Annotated[
    str,
    QueryParameter(
        name="filter.is_sdxl", description="True for models of SDXL alone, false for none of it.", schema_extra=FLAG
    ),
]
Words = Annotated[
    str, QueryParameter(name="filter.query", description="A part of name, file name or tag, in any case.")
]
InpaintingFilter = Annotated[
    str,
    QueryParameter(
        name="filter.is_inpainting",
        description="True for models made for inpainting alone, of which there are none; false for all.",
        schema_extra=FLAG,
    ),
]
NsfwFilter = Annotated[
    str,
    QueryParameter(
        name="filter.is_nsfw",
        description="True for models marked as such alone, of which there are none; false for all.",
        schema_extra=FLAG,
    ),
    Published("extended: clients send it, the reference has it not"),
]
Limit = Annotated[int, QueryParameter(name="pagination.limit", ge=1, le=100, description="Models on the page.")]
Cursor = Annotated[
    str,
    QueryParameter(name="pagination.cursor", description="`c_` and a number of models to skip; empty is the start."),
    Published("limited: opaque ones, which are handed out there, are not taken"),
]


@get("/model", responses=ERRORS)
async def list_models(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    signer: NamedDependency[Signer],
    settings: NamedDependency[Settings],
    base_url: NamedDependency[str],
    visibility: VisibilityFilter = "",
    source: SourceFilter = "",
    types: Types = (),
    types_misspelt: TypesMisspelt = (),
    is_sdxl: SdxlFilter = "",
    words: Words = "",
    is_inpainting: InpaintingFilter = "",
    is_nsfw: NsfwFilter = "",
    limit: Limit = 100,
    cursor: Cursor = "",
) -> ModelList:
    """The tenant's trained models, newest first, and behind them what the operator has registered."""
    wanted = read_query(
        visibility=visibility,
        source=source,
        types=[*types, *types_misspelt],
        is_sdxl=is_sdxl,
        is_inpainting=is_inpainting,
        is_nsfw=is_nsfw,
        words=words,
        limit=limit,
        cursor=cursor,
    )
    async with database.read() as conn:
        return await service.list_models(conn, signer, tenant_id, wanted, base_url=base_url, ttl=settings.model_url_ttl)


@get("/models/{owner:str}/{name:str}", responses=ERRORS)
async def download_model(
    owner: FromPath[str],
    name: FromPath[str],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    signer: NamedDependency[Signer],
    expires: FromQuery[str] = "",
    signature: FromQuery[str] = "",
) -> Stream:
    """A trained model's weights, or as `.png` a picture drawn with them; the address itself is the permission."""
    async with database.read() as conn:
        signer.check("GET", f"/models/{owner}/{name}", expires, signature, await now(conn), purpose=MODEL)
        key = await service.download(conn, owner, name)
    try:
        info = await storage.head(key)
    except ObjectMissing:
        raise MaquetteError(ErrorReason.MODEL_NOT_FOUND, "the model's file is gone") from None
    is_picture = name.endswith(service.SAMPLE_SUFFIX)
    disposition = "inline" if is_picture else f'attachment; filename="{name}"'
    return Stream(
        storage.stream(key),
        headers={"content-disposition": disposition, "content-length": str(info.size)},
        media_type=PictureFormat.PNG.content_type if is_picture else "application/octet-stream",
    )
