"""What the loops read and write of image tasks: the queue, leases, ends, and what is to be erased.

A task is claimed with a lease and a fence. Whoever draws it renews the lease together with its progress; a task whose
lease has lapsed is anybody's to give back, and what its old supervisor writes later meets a newer fence and changes
nothing. Objects are stored before the row names them, under keys of their attempt. Statuses are moved elsewhere
(`maquette.db.move`).
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.backoff import back_off
from maquette.core.image_specs import ImageSpec
from maquette.core.lifecycle import IMAGE_FAILURES, ImageStatus, Reason, Verdict
from maquette.core.picture_format import PictureFormat
from maquette.db.move import move_image_task
from maquette.db.now import now_sql
from maquette.db.tables import image_tasks, models, tenants
from maquette.server.images.repository import StoredImage
from maquette.server.webhooks import queue as webhooks

IMAGES = "images"
AS_BEFORE: Mapping[str, Any] = MappingProxyType({"step": 0, "started_at": None})
"""What the row of a task says again that waits for another attempt."""


class QueuedImageTask(Struct, frozen=True, kw_only=True):
    """An image task that waits.

    Attributes:
        fence: of its latest attempt, 0 before the first.
        spec: what to draw.
        original_key: the picture to start from.
        failures: how many of its attempts failed, by reason.
        age: seconds since it was created.
    """

    id: str
    tenant_id: str
    fence: int
    spec: ImageSpec
    original_key: str | None
    failures: dict[Reason, int]
    age: float


Attempt = tuple[str, int]
"""A task's id and an attempt's fence: what tells an attempt from every other."""


class ClaimedImageTask(Struct, frozen=True, kw_only=True):
    """An image task that somebody draws, or has given to a pool to draw, as the attempt `fence`."""

    id: str
    tenant_id: str
    fence: int
    failures: dict[Reason, int]

    @property
    def attempt(self) -> Attempt:
        """See `Attempt`."""
        return self.id, self.fence


class ImageProgress(Struct, frozen=True):
    """How far a claimed task is.

    Attributes:
        step: denoising steps that are done.
        begun_ago: seconds since a worker began it; None while none has.
    """

    task: ClaimedImageTask
    step: int
    begun_ago: float | None


class EndedImageTask(Struct, frozen=True, kw_only=True):
    """An image task whose time is over."""

    id: str
    tenant_id: str


def prefix(tenant_id: str, image_task_id: str) -> str:
    """Where all objects of an image task lie."""
    return f"{IMAGES}/{tenant_id}/{image_task_id}"


def original_key(tenant_id: str, image_task_id: str, kind: str) -> str:
    """Where the picture to start from lies; `kind` is its format."""
    return f"{prefix(tenant_id, image_task_id)}/original.{kind}"


def picture_key(task: ClaimedImageTask, index: int, kind: PictureFormat) -> str:
    """Where a drawn picture goes: per attempt, so that a lost one can never overwrite its successor's."""
    return f"{prefix(task.tenant_id, task.id)}/{task.fence}/{index}.{kind}"


# ------------------------------------------------------------------------------------------------------ the queue


async def due(conn: AsyncConnection, limit: int, *, model_wait: float) -> list[QueuedImageTask]:
    """Waiting tasks whose pause is over, oldest first.

    One that was seen to wait for a model is left out until that is judged, or the task is older than `model_wait`
    seconds: what can't be drawn yet never stands in the way of what can.
    """
    unjudged = (
        select(models.c.id)
        .where(
            models.c.tenant_id == image_tasks.c.tenant_id,
            models.c.id == image_tasks.c.waits_for,
            models.c.verdict == Verdict.PENDING,
        )
        .exists()
    )
    waits_no_more = or_(image_tasks.c.waits_for.is_(None), older_than(conn, model_wait), ~unjudged)
    return await _queued(conn, image_tasks.c.not_before <= now_sql(conn), waits_no_more, limit=limit)


async def overdue(conn: AsyncConnection, deadline: float, limit: int) -> list[QueuedImageTask]:
    """Waiting tasks that were created more than `deadline` seconds ago, oldest first."""
    return await _queued(conn, older_than(conn, deadline), limit=limit)


def older_than(conn: AsyncConnection, seconds: float) -> ColumnElement[bool]:
    """Whether a task was created longer ago; also the right of anybody to end one that is past its deadline."""
    return image_tasks.c.created_at < now_sql(conn) - seconds


async def _queued(conn: AsyncConnection, *conditions: ColumnElement[bool], limit: int) -> list[QueuedImageTask]:
    rows = await conn.execute(
        select(
            image_tasks.c.id,
            image_tasks.c.tenant_id,
            image_tasks.c.fence,
            image_tasks.c.spec,
            image_tasks.c.original_key,
            image_tasks.c.failures,
            (now_sql(conn) - image_tasks.c.created_at).label("age"),
        )
        .where(image_tasks.c.status == ImageStatus.QUEUED, *conditions)
        .order_by(image_tasks.c.created_at, image_tasks.c.id)
        .limit(limit)
    )
    return [msgspec.convert(row, QueuedImageTask) for row in rows.mappings()]


async def wait_for(conn: AsyncConnection, task: QueuedImageTask, model_id: str) -> None:
    """Remember what a waiting task waits for; see `due`."""
    await conn.execute(
        update(image_tasks)
        .where(_is(task), image_tasks.c.status == ImageStatus.QUEUED, image_tasks.c.fence == task.fence)
        .values(waits_for=model_id)
    )


async def refuse(conn: AsyncConnection, task: QueuedImageTask, reason: Reason, message: str = "") -> bool:
    """End a waiting task that will never be drawn; False where it does not wait any more."""
    moved = await move_image_task(
        conn,
        task.tenant_id,
        task.id,
        source=ImageStatus.QUEUED,
        to=ImageStatus.FAILED,
        reason=reason,
        fence=task.fence,
        message=_words(reason, message),
    )
    return moved is not None


async def claim(
    conn: AsyncConnection, task: QueuedImageTask, *, supervisor: str, lease: float
) -> ClaimedImageTask | None:
    """Begin an attempt under a lease of `lease` seconds; None where somebody else was faster.

    Its owner reads that it waits until a worker has begun it (`advance`): a pool may have a queue of its own.
    """
    fence = await move_image_task(
        conn,
        task.tenant_id,
        task.id,
        source=ImageStatus.QUEUED,
        to=ImageStatus.PROCESSING,
        reason=Reason.DISPATCHED,
        fence=task.fence,
        values={
            "fence": task.fence + 1,
            "supervisor": supervisor,
            "lease_until": now_sql(conn) + lease,
            "waits_for": None,
        },
    )
    if fence is None:
        return None
    return ClaimedImageTask(id=task.id, tenant_id=task.tenant_id, fence=fence, failures=task.failures)


# ------------------------------------------------------------------------------------------------ while it is drawn


async def advance(conn: AsyncConnection, progress: Collection[ImageProgress], lease: float) -> None:
    """Store how far tasks are, and when each was begun, and extend their leases.

    Those that are somebody else's by now are left alone.
    """
    if not progress:
        return
    # In one order for everybody, so that no two transactions wait for each other.
    rows = [
        {"this_id": one.task.id, "this_fence": one.task.fence, "done": one.step, "begun_ago": one.begun_ago}
        for one in sorted(progress, key=lambda one: one.task.id)
    ]
    await conn.execute(
        update(image_tasks)
        .where(
            image_tasks.c.id == bindparam("this_id"),
            image_tasks.c.fence == bindparam("this_fence"),
            image_tasks.c.status == ImageStatus.PROCESSING,
        )
        .values(
            step=bindparam("done"),
            lease_until=now_sql(conn) + lease,
            started_at=func.coalesce(
                image_tasks.c.started_at, now_sql(conn) - bindparam("begun_ago", type_=image_tasks.c.started_at.type)
            ),
        ),
        rows,
    )


async def held(conn: AsyncConnection, supervisor: str) -> set[Attempt]:
    """The attempts that are this supervisor's."""
    rows = await conn.execute(
        select(image_tasks.c.id, image_tasks.c.fence).where(
            image_tasks.c.status == ImageStatus.PROCESSING, image_tasks.c.supervisor == supervisor
        )
    )
    return {(row.id, row.fence) for row in rows}


def orphaned(conn: AsyncConnection, after: float) -> ColumnElement[bool]:
    """The right of anybody to give back a task whose lease ended more than `after` seconds ago."""
    return image_tasks.c.lease_until < now_sql(conn) - after


def supervised_by_others(supervisor: str) -> ColumnElement[bool]:
    """The right of a server that starts, and knows that it is the only one there is."""
    return image_tasks.c.supervisor != supervisor


async def in_progress(conn: AsyncConnection, right: ColumnElement[bool], limit: int) -> list[ClaimedImageTask]:
    """Tasks that are drawn, as far as the caller has this right to them."""
    rows = await conn.execute(
        select(image_tasks.c.id, image_tasks.c.tenant_id, image_tasks.c.fence, image_tasks.c.failures)
        .where(image_tasks.c.status == ImageStatus.PROCESSING, right)
        .order_by(image_tasks.c.lease_until)
        .limit(limit)
    )
    return [msgspec.convert(row, ClaimedImageTask) for row in rows.mappings()]


async def succeed(conn: AsyncConnection, task: ClaimedImageTask, images: Sequence[StoredImage]) -> bool:
    """End a task whose pictures are all stored; False where it is somebody else's by now."""
    moved = await move_image_task(
        conn,
        task.tenant_id,
        task.id,
        source=ImageStatus.PROCESSING,
        to=ImageStatus.SUCCEED,
        reason=Reason.FINISHED,
        fence=task.fence,
        values={"images": images, "step": image_tasks.c.total_steps},
    )
    return moved is not None


async def release(
    conn: AsyncConnection, task: ClaimedImageTask, *, right: ColumnElement[bool] | None = None, pause: float = 0.0
) -> bool:
    """Let a task wait again whose attempt does not count, for `pause` seconds at least.

    `right` is as in `fail`. False where it is somebody else's by now.
    """
    moved = await move_image_task(
        conn,
        task.tenant_id,
        task.id,
        source=ImageStatus.PROCESSING,
        to=ImageStatus.QUEUED,
        reason=Reason.RELEASED,
        fence=task.fence,
        right=right,
        values={"not_before": now_sql(conn) + pause, **AS_BEFORE},
    )
    return moved is not None


async def give_back(conn: AsyncConnection, task: ClaimedImageTask, right: ColumnElement[bool]) -> None:
    """Let a task wait again whose supervisor is gone; that counts as a failure only where a worker had begun it."""
    if not await release(conn, task, right=and_(right, image_tasks.c.started_at.is_(None))):
        await fail(conn, task, Reason.WORKER_LOST, "Its server was lost.", right=right)


async def fail(
    conn: AsyncConnection,
    task: ClaimedImageTask,
    reason: Reason,
    message: str = "",
    *,
    right: ColumnElement[bool] | None = None,
) -> ImageStatus | None:
    """End an attempt without pictures: the task waits again while attempts are left, else it fails.

    `right` is what gives the attempt to the caller where it is not the caller's own. Answers the task's new status, or
    None where it is somebody else's by now.
    """
    failure = IMAGE_FAILURES[reason]
    count = task.failures.get(reason, 0) + 1
    retried = failure.retries_after(count)
    status = ImageStatus.QUEUED if retried else failure.final_status
    moved = await move_image_task(
        conn,
        task.tenant_id,
        task.id,
        source=ImageStatus.PROCESSING,
        to=status,
        reason=reason,
        fence=task.fence,
        right=right,
        message=_words(reason, message),
        values={"failures": {**task.failures, reason: count}}
        | ({"not_before": now_sql(conn) + back_off(count), **AS_BEFORE} if retried else {}),
    )
    return None if moved is None else status


def _words(reason: Reason, message: str) -> str:
    return f"{IMAGE_FAILURES[reason].words} {message}".strip()


# --------------------------------------------------------------------------------------------------- after its end


async def expired(conn: AsyncConnection, kept: float, limit: int) -> list[EndedImageTask]:
    """Tasks that ended, and told their webhook, more than `kept` seconds ago, oldest first."""
    rows = await conn.execute(
        select(image_tasks.c.id, image_tasks.c.tenant_id)
        .where(_is_expired(conn, kept))
        .order_by(image_tasks.c.finished_at)
        .limit(limit)
    )
    return [EndedImageTask(**row) for row in rows.mappings()]


async def forget(conn: AsyncConnection, task: EndedImageTask, kept: float) -> bool:
    """Delete an expired task's row, after its objects (`prefix`) were erased; False where there is none.

    No call shows the task by then, and no address of its pictures is good any more, so whoever is cut off in between
    does the rest again.
    """
    result = await conn.execute(delete(image_tasks).where(_is(task), _is_expired(conn, kept)))
    return result.rowcount == 1


async def strays(conn: AsyncConnection, keys: Collection[str]) -> list[str]:
    """Those of the objects (under `prefix`) whose image task there is not.

    Objects of tenants that this database does not know are left alone: they are another installation's.
    """
    owners = {key: (parts[1], parts[2]) for key in keys if len(parts := key.split("/")) > 3}
    tenant_ids = {tenant_id for tenant_id, _ in owners.values()}
    task_ids = {task_id for _, task_id in owners.values()}
    ours = set(await conn.scalars(select(tenants.c.id).where(tenants.c.id.in_(tenant_ids))))
    tasks = await conn.execute(select(image_tasks.c.tenant_id, image_tasks.c.id).where(image_tasks.c.id.in_(task_ids)))
    known = {(task.tenant_id, task.id) for task in tasks}
    return [key for key, owner in owners.items() if owner[0] in ours and owner not in known]


def _is_expired(conn: AsyncConnection, kept: float) -> ColumnElement[bool]:
    return and_(image_tasks.c.finished_at < now_sql(conn) - kept, ~webhooks.holds(conn, kept))


def _is(task: QueuedImageTask | EndedImageTask) -> ColumnElement[bool]:
    return and_(image_tasks.c.tenant_id == task.tenant_id, image_tasks.c.id == task.id)
