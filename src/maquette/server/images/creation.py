"""A new image task, in three breaths: draft it from what is there, store the picture to start from, insert it.

Whatever is wrong with a request shows in the draft, before anything has been written.
"""

import base64
import binascii
import secrets
from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.bases.catalogue import BaseKind, stem
from maquette.core.errors import ErrorReason, InvalidRequest, MaquetteError
from maquette.core.image_specs import (
    EmbeddingChoice,
    EmbeddingRef,
    ImageBody,
    ImageKind,
    ImageSpec,
    LoraChoice,
    LoraRef,
    MockStatus,
    NamedModels,
    TextToImage,
    refuse_beyond,
    refuse_unsupported,
    resolve,
)
from maquette.core.lifecycle import ImageStatus, Reason, Verdict
from maquette.core.picture_format import PictureFormat
from maquette.core.rehearsal import OF_PICTURES
from maquette.core.specs import MAX_DRAWN_SEED, BaseRef
from maquette.db.move import create_image_task, move_image_task
from maquette.pictures.limits import PictureLimits
from maquette.pictures.sniff import Sniffer
from maquette.server import sandbox
from maquette.server.bases import service as bases
from maquette.server.bases.service import Base
from maquette.server.images import copies, pace, queue
from maquette.server.models import service as models
from maquette.server.settings import Settings
from maquette.server.webhooks import service as webhooks
from maquette.storage.base import Storage

ORIGINAL = "request.image_base64"


class ImageDraft(Struct, frozen=True, kw_only=True):
    """A task that could be created.

    Attributes:
        webhook_url: whom to tell of its end.
        mock: how it ends at once where it only tries the webhook out.
    """

    kind: ImageKind
    spec: ImageSpec
    webhook_url: str | None
    mock: MockStatus | None


class Original(Struct, frozen=True):
    """The bytes of a picture to start from, and their format."""

    data: bytes
    format: PictureFormat


def read_original(text: str, limits: PictureLimits) -> Original:
    """A picture as a request carries it: Base64 of either alphabet, maybe behind `data:image/png;base64,`.

    Raises:
        MaquetteError: it is too large in bytes or pixels, or no whole picture of a format we take.
    """
    head, comma, rest = text.partition(",")
    encoded = "".join((rest if comma and head.strip().startswith("data:") else text).split())
    encoded = encoded.rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    try:
        limits.check_bytes(len(encoded) * 3 // 4)
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        sniffer = Sniffer()
        sniffer.feed(data)
        header = sniffer.finish()
        limits.check_pixels(header)
    except (binascii.Error, ValueError):
        raise MaquetteError(ErrorReason.INVALID_IMAGE_FORMAT, f"{ORIGINAL}: is no Base64") from None
    except MaquetteError as error:
        raise MaquetteError(error.reason, f"{ORIGINAL}: {error.message}", error.metadata) from error
    return Original(data, header.format)


async def draft(
    conn: AsyncConnection, settings: Settings, tenant_id: str, kind: ImageKind, body: ImageBody
) -> ImageDraft:
    """Check a body against what there is, find what its names mean, and fill in every default.

    Raises:
        InvalidRequest, FeatureNotAllowed: the message names the field.
        MaquetteError: INVALID_IMAGE_SIZE, INVALID_CUSTOM_OUTPUT_PATH.
        RateLimitExceeded: see `pace.hold`.
    """
    refuse_unsupported(body)
    if body.extra.webhook:
        webhooks.check_address(body.extra.webhook.url, settings.outbound_reach, field="extra.webhook.url")
    elsewhere = body.extra.custom_storage.aws_s3 if body.extra.custom_storage else None
    copy_to = copies.read_target(elsewhere, settings.opened_buckets) if elsewhere else None
    refuse_beyond(body, settings.image_limits)
    sandbox.breakdown(settings, body.request.prompt, OF_PICTURES, field="request.prompt")
    named = await _named(conn, settings, tenant_id, body)
    asked = resolve(body, named, draw_seed=lambda: secrets.randbelow(MAX_DRAWN_SEED) + 1, copy_to=copy_to)
    spec = sandbox.small_picture(settings, asked)
    webhook = body.extra.webhook
    mock = webhook.test_mode.return_task_status if webhook and webhook.test_mode and webhook.test_mode.enabled else None
    if mock is None:
        await pace.hold(conn, tenant_id, settings.images_per_minute, further=spec.image_num)
    return ImageDraft(kind=kind, spec=spec, webhook_url=webhook.url if webhook else None, mock=mock)


async def store_original(storage: Storage, tenant_id: str, image_task_id: str, original: Original) -> str:
    """Store a picture to start from; answers its object's key."""
    key = queue.original_key(tenant_id, image_task_id, original.format)
    await storage.put(key, original.data)
    return key


async def create(
    conn: AsyncConnection,
    settings: Settings,
    tenant_id: str,
    image_task_id: str,
    draft: ImageDraft,
    *,
    original_key: str | None,
    public_url: str,
) -> None:
    """Insert the task. One that only tries its webhook out ends in the same transaction, and nothing is drawn.

    Raises:
        RateLimitExceeded: others were faster.
    """
    await create_image_task(
        conn,
        tenant_id=tenant_id,
        image_task_id=image_task_id,
        kind=draft.kind,
        spec=draft.spec,
        original_key=original_key,
        webhook_url=draft.webhook_url,
        public_url=public_url,
    )
    if draft.mock:
        await move_image_task(
            conn,
            tenant_id,
            image_task_id,
            source=ImageStatus.QUEUED,
            to=ImageStatus(draft.mock),
            reason=Reason.TEST_MODE,
            message="This is a test of the webhook: nothing was drawn.",
        )
    else:
        await pace.hold(conn, tenant_id, settings.images_per_minute)


async def _named(conn: AsyncConnection, settings: Settings, tenant_id: str, body: ImageBody) -> NamedModels:
    request = body.request
    name = sandbox.base_name(settings, request.model_name)
    checkpoint = await bases.require(conn, name, BaseKind.CHECKPOINT, field="request.model_name")
    vae = await _vae(conn, request.sd_vae, checkpoint) if request.sd_vae else None
    refined = isinstance(request, TextToImage) and request.refiner
    return NamedModels(
        base=bases.as_ref(checkpoint),
        vae=vae,
        loras=await _loras(conn, tenant_id, request.loras, checkpoint),
        embeddings=await _embeddings(conn, request.embeddings, checkpoint),
        refiner=await _refiner(conn, checkpoint) if refined else None,
    )


async def _vae(conn: AsyncConnection, name: str, checkpoint: Base) -> BaseRef:
    field = "request.sd_vae"
    vae = await bases.require(conn, name, BaseKind.VAE, field=field)
    bases.check_fits(vae, checkpoint, field=field)
    return bases.as_ref(vae)


async def _refiner(conn: AsyncConnection, checkpoint: Base) -> BaseRef:
    """The refiner of the checkpoint's family; by its name the first where there are several."""
    for refiner in await bases.of_kind(conn, BaseKind.REFINER):
        if refiner.family == checkpoint.family:
            bases.check_fits(refiner, checkpoint, field="request.refiner")
            return bases.as_ref(refiner)
    raise InvalidRequest(
        "request.refiner",
        f"this server has no refiner for the family {checkpoint.family}; leave it out, or ask its operator for one",
    )


async def _embeddings(
    conn: AsyncConnection, choices: Sequence[EmbeddingChoice], checkpoint: Base
) -> tuple[EmbeddingRef, ...]:
    found: list[EmbeddingRef] = []
    for index, choice in enumerate(choices):
        field = f"request.embeddings[{index}].model_name"
        embedding = await bases.require(conn, choice.model_name, BaseKind.EMBEDDING, field=field)
        bases.check_fits(embedding, checkpoint, field=field)
        if any(embedding.name == other.base.name for other in found):
            raise InvalidRequest(field, f"{choice.model_name!r} is given twice")
        found.append(EmbeddingRef(bases.as_ref(embedding), stem(choice.model_name)))
    return tuple(found)


async def _loras(
    conn: AsyncConnection, tenant_id: str, choices: Sequence[LoraChoice], checkpoint: Base
) -> tuple[LoraRef, ...]:
    found: list[LoraRef] = []
    for index, choice in enumerate(choices):
        field = f"request.loras[{index}].model_name"
        lora = await _lora(conn, tenant_id, field, choice, checkpoint)
        if any(lora.model_id == other.model_id for other in found):
            raise InvalidRequest(field, f"{choice.model_name!r} is given twice")
        found.append(lora)
    return tuple(found)


async def _lora(conn: AsyncConnection, tenant_id: str, field: str, choice: LoraChoice, checkpoint: Base) -> LoraRef:
    """A LoRA to draw with; one that is not judged yet is taken, and the task waits for its verdict."""
    name = choice.model_name
    lora = await models.find_lora(conn, tenant_id, name)
    if lora is None:
        raise InvalidRequest(field, f"unknown LoRA {name!r}; GET /v3/model lists those there are")
    if lora.base_family != checkpoint.family:
        raise InvalidRequest(
            field,
            f"{name!r} is of the family {lora.base_family} and does not fit {checkpoint.name!r}, which is of the family"
            f" {checkpoint.family}",
        )
    if lora.verdict is Verdict.REJECTED:
        raise InvalidRequest(field, f"{name!r} was refused, and nothing is drawn with it: {lora.verdict_message}")
    return LoraRef(
        model_id=lora.id, name=lora.name, object_key=lora.object_key, sha256=lora.sha256, strength=choice.strength
    )
