"""Rows with sensible defaults, made through the functions that make them in earnest where there are any."""

from msgspec.structs import replace
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.ids import new_asset_id, new_id, new_task_id
from maquette.core.image_specs import ImageKind, ImageSpec, NamedModels, TextToImage, TextToImageBody
from maquette.core.image_specs import resolve as resolve_image
from maquette.core.lifecycle import ImageStatus, Reason, TaskStatus
from maquette.core.specs import (
    BaseRef,
    DatasetItem,
    FamilyDefaults,
    Picture,
    TaskType,
    TrainingRequest,
    TrainingSpec,
    resolve,
)
from maquette.db.move import create_image_task, create_model, create_task, move_image_task, move_task
from maquette.db.now import now, now_sql
from maquette.db.tables import assets, dataset_items, datasets, tasks, tenants

SHA256 = "0123456789abcdef" * 4


def training_spec(task_type: TaskType = TaskType.SUBJECT, *, pictures: int = 1, steps: int = 10) -> TrainingSpec:
    """The resolved spec of a small training with every default, seed 1."""
    request = TrainingRequest(
        name="cat-01",
        base_model="maquette-tiny",
        width=128,
        height=128,
        image_dataset_items=[DatasetItem(new_asset_id()) for _ in range(pictures)],
    )
    spec = resolve(
        request,
        task_type=task_type,
        base=BaseRef(request.base_model, "sd15", SHA256),
        pictures=[
            Picture(f"{position}-{item.assets_id}.png", SHA256)
            for position, item in enumerate(request.image_dataset_items)
        ],
        defaults=FamilyDefaults(),
        draw_seed=lambda: 1,
    )
    return replace(spec, settings=replace(spec.settings, max_train_steps=steps))


async def make_tenant(conn: AsyncConnection, name: str | None = None) -> str:
    """Insert a tenant; answer its id."""
    tenant_id = new_id()
    await conn.execute(
        insert(tenants).values(id=tenant_id, name=name or f"tenant-{tenant_id[:8]}", created_at=now_sql(conn))
    )
    return tenant_id


async def make_asset(conn: AsyncConnection, tenant_id: str) -> str:
    """Insert an uploaded, sealed 128 px PNG (the row alone, no object); answer its id."""
    asset_id = new_asset_id()
    at = await now(conn)
    await conn.execute(
        insert(assets).values(
            id=asset_id,
            tenant_id=tenant_id,
            extension="png",
            created_at=at,
            upload_expires_at=at + 600,
            uploaded_at=at,
            upload_key=f"uploads/{tenant_id}/{asset_id}",
            size=1000,
            format="png",
            width=128,
            height=128,
            sha256=SHA256,
            sealed_key=f"sealed/{tenant_id}/{asset_id}",
        )
    )
    return asset_id


async def make_dataset(conn: AsyncConnection, tenant_id: str, *, pictures: int = 1) -> str:
    """Insert a dataset of new assets; answer its id."""
    dataset_id = new_id()
    await conn.execute(insert(datasets).values(id=dataset_id, tenant_id=tenant_id, created_at=now_sql(conn)))
    for position in range(pictures):
        asset_id = await make_asset(conn, tenant_id)
        await conn.execute(
            insert(dataset_items).values(
                dataset_id=dataset_id,
                position=position,
                asset_id=asset_id,
                object_key=f"sealed/{tenant_id}/{asset_id}",
            )
        )
    return dataset_id


async def make_task(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    task_type: TaskType = TaskType.SUBJECT,
    status: TaskStatus = TaskStatus.QUEUING,
    dataset_id: str | None = None,
    name: str = "cat-01",
    spec: TrainingSpec | None = None,
) -> str:
    """Create a task, with dataset and spec of its own where none are given, and move it to `status`; answer its id."""
    task_id = new_task_id()
    await create_task(
        conn,
        tenant_id=tenant_id,
        task_id=task_id,
        name=name,
        dataset_id=dataset_id or await make_dataset(conn, tenant_id),
        spec=spec or training_spec(task_type),
    )
    for source, to, reason in PATHS[status]:
        values = {"fence": tasks.c.fence + 1} if to is TaskStatus.TRAINING else {}
        moved = await move_task(conn, tenant_id, task_id, source=source, to=to, reason=reason, values=values)
        assert moved is not None
    return task_id


DISPATCH = (TaskStatus.QUEUING, TaskStatus.TRAINING, Reason.DISPATCHED)
PATHS: dict[TaskStatus, tuple[tuple[TaskStatus, TaskStatus, Reason], ...]] = {
    TaskStatus.QUEUING: (),
    TaskStatus.TRAINING: (DISPATCH,),
    TaskStatus.SUCCESS: (DISPATCH, (TaskStatus.TRAINING, TaskStatus.SUCCESS, Reason.FINISHED)),
    TaskStatus.FAILED: (DISPATCH, (TaskStatus.TRAINING, TaskStatus.FAILED, Reason.BAD_DATASET)),
    TaskStatus.CANCELED: ((TaskStatus.QUEUING, TaskStatus.CANCELED, Reason.CANCELED),),
}
"""The shortest way to each status."""


async def make_model(conn: AsyncConnection, tenant_id: str, task_id: str) -> str:
    """Create a task's model, DEPLOYING (the row alone, no objects); answer its id."""
    suffix = task_id.replace("-", "")[:10].upper()
    model = await create_model(
        conn,
        tenant_id=tenant_id,
        task_id=task_id,
        name=f"model_{int(await now(conn))}_{suffix}.safetensors",
        object_key=f"tasks/{task_id}/1/output/lora.safetensors",
        sample_key=f"tasks/{task_id}/1/samples/final.png",
        size=1000,
        sha256=SHA256,
    )
    return model.id


def image_spec(prompt: str = "a cat") -> ImageSpec:
    """The resolved spec of two small pictures with every default, seed 42."""
    request = TextToImage(model_name="tiny", prompt=prompt, width=128, height=128, image_num=2)
    base = BaseRef(request.model_name, "sd15", SHA256)
    return resolve_image(TextToImageBody(request=request), NamedModels(base=base), draw_seed=lambda: 42)


async def make_image_task(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    status: ImageStatus = ImageStatus.QUEUED,
    webhook_url: str | None = None,
    spec: ImageSpec | None = None,
    original_key: str | None = None,
) -> str:
    """Create an image task, of `image_spec` unless told otherwise, and move it to `status` (the row alone, no
    objects); answer its id.
    """
    task_id = new_task_id()
    await create_image_task(
        conn,
        tenant_id=tenant_id,
        image_task_id=task_id,
        kind=ImageKind.TEXT,
        spec=spec or image_spec(),
        original_key=original_key,
        webhook_url=webhook_url,
        public_url="http://maquette.test",
    )
    at = await now(conn)
    begun = {"fence": 1, "supervisor": "a", "lease_until": at + 30, "started_at": at}
    ended = {"images": [{"key": f"images/{tenant_id}/{task_id}/1/0.png", "format": "png"}]}
    for source, to, reason in IMAGE_PATHS[status]:
        values = begun if to is ImageStatus.PROCESSING else ended if to is ImageStatus.SUCCEED else {}
        moved = await move_image_task(conn, tenant_id, task_id, source=source, to=to, reason=reason, values=values)
        assert moved is not None
    return task_id


BEGIN = (ImageStatus.QUEUED, ImageStatus.PROCESSING, Reason.DISPATCHED)
IMAGE_PATHS: dict[ImageStatus, tuple[tuple[ImageStatus, ImageStatus, Reason], ...]] = {
    ImageStatus.QUEUED: (),
    ImageStatus.PROCESSING: (BEGIN,),
    ImageStatus.SUCCEED: (BEGIN, (ImageStatus.PROCESSING, ImageStatus.SUCCEED, Reason.FINISHED)),
    ImageStatus.FAILED: (BEGIN, (ImageStatus.PROCESSING, ImageStatus.FAILED, Reason.NOT_FINITE)),
}
"""The shortest way to each status of an image task."""
