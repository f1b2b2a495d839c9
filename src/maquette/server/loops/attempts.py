"""What the loops read and write of attempts, claims and checkpoints.

Every write names task and fence, and a row of an older fence is never touched. Statuses are moved elsewhere
(`maquette.db.move`).
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import Reason, TaskStatus
from maquette.core.rundir import FileRecord, stays
from maquette.core.specs import TrainingSpec
from maquette.db.dialects import insert
from maquette.db.now import now_sql
from maquette.db.tables import attempts, bases, checkpoints, dataset_items, device_claims, tasks
from maquette.executors.base import AttemptPlan, CheckpointRef


class QueuedTask(Struct, frozen=True, kw_only=True):
    """A task that waits for an attempt."""

    id: str
    tenant_id: str
    fence: int


class OpenAttempt(Struct, frozen=True, kw_only=True):
    """An attempt that has not ended, with what its task says of it; `age` is the task's, in seconds."""

    task_id: str
    fence: int
    tenant_id: str
    device: str
    handle: str
    launched: bool
    message_offset: int
    reason: Reason | None
    message: str
    cancel_requested: bool
    age: float

    def unwanted(self, deadline: float) -> bool:
        """Whether the task is to end without another attempt: cancelled, or older than `deadline` seconds."""
        return self.cancel_requested or self.age > deadline


async def dispatchable(conn: AsyncConnection, limit: int) -> list[QueuedTask]:
    """Queued tasks whose back-off is over, oldest first."""
    return await _queued(conn, tasks.c.not_before <= now_sql(conn), limit=limit)


async def overdue(conn: AsyncConnection, deadline: float, limit: int) -> list[QueuedTask]:
    """Queued tasks that were created more than `deadline` seconds ago, oldest first."""
    return await _queued(conn, _age(conn) > deadline, limit=limit)


async def _queued(conn: AsyncConnection, condition: ColumnElement[bool], *, limit: int) -> list[QueuedTask]:
    rows = await conn.execute(
        select(tasks.c.id, tasks.c.tenant_id, tasks.c.fence)
        .where(tasks.c.status == TaskStatus.QUEUING, condition)
        .order_by(tasks.c.created_at, tasks.c.id)
        .limit(limit)
    )
    return [msgspec.convert(row, QueuedTask) for row in rows.mappings()]


async def claimed_devices(conn: AsyncConnection, node_id: str) -> set[str]:
    """Devices of a node that an attempt holds."""
    rows = await conn.execute(select(device_claims.c.device).where(device_claims.c.node_id == node_id))
    return set(rows.scalars())


async def open_attempt(
    conn: AsyncConnection,
    task: QueuedTask,
    *,
    node_id: str,
    device: str,
    handle: str,
    supervisor: str,
    lease: float,
) -> None:
    """Insert the attempt `task.fence + 1` and its claim; the caller has moved the task in the same transaction.

    Raises:
        IntegrityError: somebody else holds the device.
    """
    fence = task.fence + 1
    await conn.execute(
        insert(conn, attempts).values(
            task_id=task.id,
            fence=fence,
            tenant_id=task.tenant_id,
            node_id=node_id,
            device=device,
            handle=handle,
            supervisor=supervisor,
            lease_until=now_sql(conn) + lease,
            started_at=now_sql(conn),
        )
    )
    await conn.execute(
        insert(conn, device_claims).values(
            node_id=node_id, device=device, task_id=task.id, fence=fence, claimed_at=now_sql(conn)
        )
    )


def supervised_by(supervisor: str) -> ColumnElement[bool]:
    """The right of an attempt's supervisor to write of it."""
    return attempts.c.supervisor == supervisor


def orphaned(conn: AsyncConnection, supervisor: str, after: float) -> ColumnElement[bool]:
    """The right of anybody to end an attempt whose lease ended more than `after` seconds ago.

    Those of `supervisor`, who asks, are no orphans: its machine may have slept, and it renews them at its next turn.
    """
    return and_(attempts.c.lease_until < now_sql(conn) - after, attempts.c.supervisor != supervisor)


async def supervised(conn: AsyncConnection, node_id: str, supervisor: str) -> list[OpenAttempt]:
    """The open attempts of a node that this supervisor has to see to."""
    return await _open(conn, attempts.c.node_id == node_id, supervised_by(supervisor))


async def orphans(conn: AsyncConnection, supervisor: str, after: float) -> list[OpenAttempt]:
    """Open attempts, of any node, that have nobody; see `orphaned`."""
    return await _open(conn, orphaned(conn, supervisor, after))


async def _open(conn: AsyncConnection, *conditions: ColumnElement[bool]) -> list[OpenAttempt]:
    rows = await conn.execute(
        select(
            attempts.c.task_id,
            attempts.c.fence,
            attempts.c.tenant_id,
            attempts.c.device,
            attempts.c.handle,
            attempts.c.launched_at.is_not(None).label("launched"),
            attempts.c.message_offset,
            attempts.c.reason,
            attempts.c.message,
            tasks.c.cancel_requested_at.is_not(None).label("cancel_requested"),
            _age(conn).label("age"),
        )
        .join_from(attempts, tasks, tasks.c.id == attempts.c.task_id)
        .where(attempts.c.ended_at.is_(None), *conditions)
        .order_by(attempts.c.started_at)
    )
    return [msgspec.convert(row, OpenAttempt) for row in rows.mappings()]


async def known_handles(conn: AsyncConnection, node_id: str, handles: Sequence[str]) -> dict[str, bool]:
    """Those of a node's handles that this database has an attempt of, each with whether it has ended."""
    ended = attempts.c.ended_at.is_not(None).label("ended")
    rows = await conn.execute(
        select(attempts.c.handle, ended).where(attempts.c.node_id == node_id, attempts.c.handle.in_(handles))
    )
    return {row.handle: row.ended for row in rows}


async def take_over(conn: AsyncConnection, node_id: str, supervisor: str, lease: float) -> int:
    """Become the supervisor of every open attempt of a node whose earlier supervisor is surely dead."""
    result = await conn.execute(
        update(attempts)
        .where(attempts.c.node_id == node_id, attempts.c.ended_at.is_(None))
        .values(supervisor=supervisor, lease_until=now_sql(conn) + lease)
    )
    return result.rowcount


async def renew_leases(conn: AsyncConnection, supervisor: str, lease: float) -> None:
    """Extend all leases this supervisor holds, in one statement."""
    await conn.execute(
        update(attempts)
        .where(attempts.c.supervisor == supervisor, attempts.c.ended_at.is_(None))
        .values(lease_until=now_sql(conn) + lease)
    )


async def store_launched(conn: AsyncConnection, attempt: OpenAttempt, right: ColumnElement[bool]) -> bool:
    """Remember that launching an attempt returned; False where the right to it is gone, or it has ended."""
    result = await conn.execute(update(attempts).where(_is_open(attempt), right).values(launched_at=now_sql(conn)))
    return result.rowcount == 1


async def advance(
    conn: AsyncConnection,
    attempt: OpenAttempt,
    *,
    right: ColumnElement[bool],
    offset: int,
    reason: Reason | None,
    message: str,
) -> bool:
    """Store how far an attempt's messages were read; False where the right to it is gone, or it has ended."""
    result = await conn.execute(
        update(attempts)
        .where(_is_open(attempt), right, attempts.c.message_offset == attempt.message_offset)
        .values(message_offset=offset, reason=reason, message=message)
    )
    return result.rowcount == 1


async def end(conn: AsyncConnection, attempt: OpenAttempt, reason: Reason, right: ColumnElement[bool]) -> bool:
    """End an attempt; False where the right to it is gone, or it has ended. Its device is freed last of all."""
    result = await conn.execute(
        update(attempts).where(_is_open(attempt), right).values(ended_at=now_sql(conn), reason=reason)
    )
    return result.rowcount == 1


async def correct_reason(conn: AsyncConnection, attempt: OpenAttempt, reason: Reason) -> None:
    """Give another reason to an attempt that was ended in this very transaction."""
    await conn.execute(
        update(attempts)
        .where(attempts.c.task_id == attempt.task_id, attempts.c.fence == attempt.fence)
        .values(reason=reason)
    )


async def free_device(conn: AsyncConnection, attempt: OpenAttempt) -> None:
    """Let others claim the device of an attempt that was ended in this very transaction."""
    await conn.execute(
        delete(device_claims).where(device_claims.c.task_id == attempt.task_id, device_claims.c.fence == attempt.fence)
    )


async def count_fruitless(conn: AsyncConnection, task_id: str, reason: Reason) -> int:
    """How many attempts of a task have ended with a reason since the last one that stored a checkpoint."""
    last_fruitful = select(func.coalesce(func.max(checkpoints.c.fence), 0)).where(checkpoints.c.task_id == task_id)
    query = select(func.count()).where(
        attempts.c.task_id == task_id,
        attempts.c.ended_at.is_not(None),
        attempts.c.reason == reason,
        attempts.c.fence > last_fruitful.scalar_subquery(),
    )
    return (await conn.execute(query)).scalar_one()


async def add_checkpoint(conn: AsyncConnection, attempt: OpenAttempt, checkpoint: CheckpointRef) -> None:
    """Name a checkpoint whose objects are all stored; named again, it has the files that it is named with then."""
    await conn.execute(
        insert(conn, checkpoints)
        .values(
            task_id=attempt.task_id,
            fence=attempt.fence,
            step=checkpoint.step,
            tenant_id=attempt.tenant_id,
            prefix=checkpoint.prefix,
            files=checkpoint.files,
            created_at=now_sql(conn),
        )
        .on_conflict_do_update(index_elements=["task_id", "fence", "step"], set_={"files": checkpoint.files})
    )


async def drop_old_checkpoints(conn: AsyncConnection, task_id: str, keep_every: int) -> list[CheckpointRef]:
    """Forget those of a task's checkpoints that need not stay; the caller deletes their objects after the commit.

    One of an earlier attempt whose step a later attempt has taken anew need not.
    """
    found = await stored_checkpoints(conn, task_id)
    anew: set[int] = set()
    old: list[CheckpointRef] = []
    for newer, checkpoint in enumerate(found):
        if not stays(checkpoint.step, newer, 0 if checkpoint.step in anew else keep_every):
            old.append(checkpoint)
        anew.add(checkpoint.step)
    if old:
        await conn.execute(
            delete(checkpoints).where(
                checkpoints.c.task_id == task_id, checkpoints.c.prefix.in_([checkpoint.prefix for checkpoint in old])
            )
        )
    return old


async def stored_checkpoints(conn: AsyncConnection, task_id: str) -> list[CheckpointRef]:
    """A task's checkpoints, the one to resume from first."""
    rows = await conn.execute(
        select(checkpoints.c.step, checkpoints.c.prefix, checkpoints.c.files)
        .where(checkpoints.c.task_id == task_id)
        .order_by(checkpoints.c.fence.desc(), checkpoints.c.step.desc())
    )
    return [
        CheckpointRef(step=row.step, prefix=row.prefix, files=msgspec.convert(row.files, tuple[FileRecord, ...]))
        for row in rows
    ]


async def load_plan(
    conn: AsyncConnection, task_id: str, fence: int, *, device: str, checkpoint_every: int, keep_every: int
) -> AttemptPlan | None:
    """The plan of an attempt, the same whenever it is asked for, or None where the pinned base is gone.

    A checkpoint of this very attempt never counts: a plan asked for again after the trainer has begun must not differ.
    """
    row = (
        await conn.execute(
            select(tasks.c.name, tasks.c.spec, tasks.c.dataset_id, tasks.c.tenant_id).where(tasks.c.id == task_id)
        )
    ).one()
    training = msgspec.convert(row.spec, TrainingSpec)
    location = await conn.scalar(
        select(bases.c.location).where(bases.c.name == training.base.name, bases.c.sha256 == training.base.sha256)
    )
    if location is None:
        return None
    pictures = await conn.execute(
        select(dataset_items.c.object_key)
        .where(dataset_items.c.dataset_id == row.dataset_id)
        .order_by(dataset_items.c.position)
    )
    earlier = [
        checkpoint
        for checkpoint in await stored_checkpoints(conn, task_id)
        if not checkpoint.prefix.startswith(f"{output_prefix(task_id, fence)}/")
    ]
    return AttemptPlan(
        task_id=task_id,
        fence=fence,
        training=training,
        base_path=location,
        pictures=tuple(pictures.scalars()),
        resume_from=tuple(earlier),
        device=device,
        checkpoint_every=checkpoint_every,
        keep_every=keep_every,
        leaner=await _count_out_of_memory(conn, task_id, fence),
        output_prefix=output_prefix(task_id, fence),
        tenant_id=row.tenant_id,
        name=row.name,
    )


async def _count_out_of_memory(conn: AsyncConnection, task_id: str, before: int) -> int:
    """How many of a task's attempts before this fence ran out of memory."""
    query = select(func.count()).where(
        attempts.c.task_id == task_id, attempts.c.fence < before, attempts.c.reason == Reason.OUT_OF_MEMORY
    )
    return (await conn.execute(query)).scalar_one()


def output_prefix(task_id: str, fence: int) -> str:
    """Where an attempt's objects go: per attempt, so that a lost one can never overwrite its successor's."""
    return f"tasks/{task_id}/{fence}"


def _is_open(attempt: OpenAttempt) -> ColumnElement[bool]:
    return and_(attempts.c.task_id == attempt.task_id, attempts.c.fence == attempt.fence, attempts.c.ended_at.is_(None))


def _age(conn: AsyncConnection) -> ColumnElement[float]:
    return now_sql(conn) - tasks.c.created_at
