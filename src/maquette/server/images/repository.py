"""What the calls about pictures ask of the database. Every query takes the tenant."""

import msgspec
from msgspec import Struct
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.image_specs import ImageKind, ImageSpec
from maquette.core.lifecycle import ImageStatus, Reason
from maquette.core.picture_format import PictureFormat
from maquette.db.now import now_sql
from maquette.db.tables import image_tasks


class StoredImage(Struct, frozen=True):
    """A drawn picture: its object, and the format of the bytes there."""

    key: str
    format: PictureFormat


class ImageTaskRecord(Struct, frozen=True, kw_only=True):
    """An image task; instants in Unix seconds.

    Attributes:
        message: words for why it has its status.
        public_url: what the addresses begin with that its webhook is told.
        step, total_steps: denoising steps of all its pictures.
        images: None until it succeeded, and for a test of its webhook.
        started_at: when a worker began its latest attempt; None while none has.
    """

    id: str
    tenant_id: str
    kind: ImageKind
    status: ImageStatus
    message: str
    spec: ImageSpec
    webhook_url: str | None
    public_url: str
    step: int
    total_steps: int
    images: tuple[StoredImage, ...] | None
    created_at: float
    started_at: float | None
    finished_at: float | None


class AskedPictures(Struct, frozen=True):
    """An image task as a pace counts it: seconds since it was created, and how many pictures it is of."""

    age: float
    images: int


async def find(
    conn: AsyncConnection, tenant_id: str, image_task_id: str, *, kept: float | None = None
) -> ImageTaskRecord | None:
    """A tenant's image task, unless it ended more than `kept` seconds ago."""
    query = select(*(image_tasks.c[field] for field in ImageTaskRecord.__struct_fields__)).where(
        image_tasks.c.tenant_id == tenant_id, image_tasks.c.id == image_task_id
    )
    if kept is not None:
        query = query.where(or_(image_tasks.c.finished_at.is_(None), image_tasks.c.finished_at >= now_sql(conn) - kept))
    row = (await conn.execute(query)).mappings().one_or_none()
    return msgspec.convert(row, ImageTaskRecord) if row else None


async def newest_asked(conn: AsyncConnection, tenant_id: str, *, tasks: int) -> list[AskedPictures]:
    """So many of a tenant's image tasks, the newest first; tests of webhooks, which draw nothing, are none."""
    query = (
        select((now_sql(conn) - image_tasks.c.created_at).label("age"), image_tasks.c.spec["image_num"].as_integer())
        .where(image_tasks.c.tenant_id == tenant_id, image_tasks.c.reason != Reason.TEST_MODE)
        .order_by(image_tasks.c.number.desc())
        .limit(tasks)
    )
    return [AskedPictures(*row) for row in await conn.execute(query)]
