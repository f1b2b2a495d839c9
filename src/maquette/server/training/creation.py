"""A new training task, in three breaths: draft it from what is there, seal its pictures, insert it.

Whatever is wrong with a request shows in the draft, before anything has been written.
"""

import secrets
from collections.abc import Mapping, Sequence

from msgspec import UNSET, Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import InvalidRequest
from maquette.core.ids import new_task_id
from maquette.core.rehearsal import OF_TRAININGS, Breakdown
from maquette.core.requirements import shown
from maquette.core.specs import (
    CONSTANT_DEFAULTS,
    DIFFUSION_SETTINGS,
    MAX_DRAWN_SEED,
    DatasetItem,
    LrScheduler,
    Picture,
    TaskType,
    TrainingRequest,
    TrainingSettings,
    TrainingSpec,
    resolve,
)
from maquette.db.events import append_event
from maquette.db.move import create_task
from maquette.families.registry import FamilySpec, load_spec
from maquette.server import sandbox
from maquette.server.assets import service as assets
from maquette.server.assets.service import SealedAsset, UploadedAsset
from maquette.server.bases import service as bases
from maquette.server.settings import Settings
from maquette.server.training import repository
from maquette.server.training.repository import DatasetItemRow


class Draft(Struct, frozen=True):
    """A task that could be created: what it is called, what it runs with, and its pictures in order.

    `notes` tell its owner where it differs from what was asked for.
    """

    name: str
    spec: TrainingSpec
    pictures: tuple[UploadedAsset, ...]
    notes: tuple[str, ...] = ()


async def draft(
    conn: AsyncConnection, settings: Settings, tenant_id: str, task_type: TaskType, request: TrainingRequest
) -> Draft:
    """Check a request against what is there, and fill in every default.

    Raises:
        InvalidRequest: the message names the field.
    """
    breakdown = sandbox.breakdown(settings, request.name, OF_TRAININGS, field="name")
    base = await bases.pin(conn, sandbox.base_name(settings, request.base_model))
    family = load_spec(base.family)
    expired = breakdown is Breakdown.EXPIRED_UPLOAD
    pictures = await _pictures(conn, settings, tenant_id, request.image_dataset_items, expired=expired)
    asked = resolve(
        request,
        task_type=task_type,
        base=base,
        pictures=[
            _picture(*numbered) for numbered in enumerate(zip(pictures, request.image_dataset_items, strict=True))
        ],
        defaults=family.defaults,
        draw_seed=lambda: secrets.randbelow(MAX_DRAWN_SEED) + 1,
    )
    _check_uses(asked, family)
    allowed = _within_steps(asked, request, settings.max_train_steps)
    _check_warm_up(allowed.settings)
    spec = sandbox.small_training(settings, allowed)
    notes = sandbox.departures(settings, request.base_model, asked, spec)
    return Draft(request.name, spec, tuple(pictures), notes)


async def create(conn: AsyncConnection, tenant_id: str, draft: Draft, sealed: Sequence[SealedAsset]) -> str:
    """Insert the task, its dataset and its first event; answers its id.

    Raises:
        MaquetteError: CONFLICT, where a picture was uploaded anew or cleared away meanwhile.
    """
    keys = {one.asset.id: one.key for one in sealed}
    items = [
        DatasetItemRow(asset.id, keys[asset.id], picture.caption)
        for asset, picture in zip(draft.pictures, draft.spec.pictures, strict=True)
    ]
    await assets.remember_sealed(conn, tenant_id, sealed)
    dataset_id = await repository.add_dataset(conn, tenant_id, items)
    task_id = new_task_id()
    await create_task(
        conn, tenant_id=tenant_id, task_id=task_id, name=draft.name, dataset_id=dataset_id, spec=draft.spec
    )
    for note in draft.notes:
        await append_event(
            conn, tenant_id=tenant_id, task_id=task_id, kind="note", data={"text": note, "picture": None}
        )
    return task_id


async def _pictures(
    conn: AsyncConnection, settings: Settings, tenant_id: str, items: Sequence[DatasetItem], *, expired: bool
) -> list[UploadedAsset]:
    """The pictures of a request; none of them is found where a sandbox is to act as if they had `expired`."""
    if len(items) > settings.max_pictures:
        raise InvalidRequest(
            "image_dataset_items", f"must be a list of 1 to {settings.max_pictures} items, got {len(items)} items"
        )
    wanted = {str(item.assets_id) for item in items}
    found = {} if expired else await assets.uploaded(conn, tenant_id, wanted)
    return [_known(found, index, str(item.assets_id)) for index, item in enumerate(items)]


def _known(found: Mapping[str, UploadedAsset], index: int, asset_id: str) -> UploadedAsset:
    if asset_id not in found:
        raise InvalidRequest(
            f"image_dataset_items[{index}].assets_id", "no picture has been uploaded under this id; upload it first"
        )
    return found[asset_id]


def _picture(position: int, picture: tuple[UploadedAsset, DatasetItem]) -> Picture:
    asset, item = picture
    caption = None if item.caption is UNSET else item.caption
    name = f"{position:02d}-{asset.id}.{asset.format}"
    return Picture(name=name, sha256=asset.sha256, caption=caption, held_out=item.held_out)


def _check_uses(spec: TrainingSpec, family: FamilySpec) -> None:
    """Refuse what a family has no use for, where it would change something; at its default it asks for nothing."""
    unused = [name for name in DIFFUSION_SETTINGS if name not in family.objective_settings]
    if not family.trained_encoders:
        unused.append("train_text_encoder")
    for name in unused:
        if (asked := getattr(spec.settings, name)) != CONSTANT_DEFAULTS[name]:
            raise InvalidRequest(
                f"expert_setting.{name}", f"{family.title} has no use for it, got {shown(asked)}; leave it out"
            )


def _within_steps(spec: TrainingSpec, request: TrainingRequest, most: int) -> TrainingSpec:
    """Refuse more steps than the operator allows; a default gives way instead."""
    if spec.settings.max_train_steps <= most:
        return spec
    if request.expert_setting.max_train_steps is not UNSET:
        raise InvalidRequest(
            "expert_setting.max_train_steps",
            f"must be between 1 and {most} on this server, got {spec.settings.max_train_steps}",
        )
    return replace(spec, settings=replace(spec.settings, max_train_steps=most))


def _check_warm_up(settings: TrainingSettings) -> None:
    """Refuse a warm-up after which there is no step left to take at the rate that was asked for."""
    if settings.lr_scheduler is LrScheduler.CONSTANT or settings.lr_warmup_steps == 0:
        return
    if settings.lr_warmup_steps >= settings.max_train_steps:
        raise InvalidRequest(
            "expert_setting.lr_warmup_steps",
            f"must be less than max_train_steps, {settings.max_train_steps} here, or the learning rate never gets to"
            f" its peak; got {settings.lr_warmup_steps}; ask for a shorter warm-up, or for more steps",
        )
