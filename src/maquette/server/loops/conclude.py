"""How an attempt ends: its own row, its task's next status and its device, in one transaction.

The caller names its right to the attempt (`attempts.supervised_by`, `attempts.orphaned`), and loses where that is gone
or the attempt has ended: None is the answer then, and nothing is written. It is the answer too where the attempt ends
and the task was not its to move.
"""

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.backoff import back_off
from maquette.core.lifecycle import FAILURES, Reason, TaskStatus
from maquette.core.rundir import Manifest
from maquette.db.move import move_task
from maquette.db.now import now_sql
from maquette.server.loops import attempts
from maquette.server.loops.attempts import OpenAttempt
from maquette.server.models import service as models


async def with_model(
    conn: AsyncConnection, attempt: OpenAttempt, manifest: Manifest, *, right: ColumnElement[bool]
) -> TaskStatus | None:
    """The result is verified: the task succeeds and its model is born. Answers the task's new status."""
    if not await attempts.end(conn, attempt, Reason.FINISHED, right):
        return None
    moved = await move_task(
        conn,
        attempt.tenant_id,
        attempt.task_id,
        source=TaskStatus.TRAINING,
        to=TaskStatus.SUCCESS,
        reason=Reason.FINISHED,
        fence=attempt.fence,
        values={"step": manifest.steps, "eta_seconds": 0},
        event={"steps": manifest.steps, "final_loss": manifest.final_loss},
    )
    if moved:
        prefix = attempts.output_prefix(attempt.task_id, attempt.fence)
        await models.birth(
            conn,
            tenant_id=attempt.tenant_id,
            task_id=attempt.task_id,
            finished_at=manifest.finished_at,
            object_key=f"{prefix}/{manifest.weights.path}",
            sample_key=f"{prefix}/{manifest.sample.path}",
            size=manifest.weights.size,
            sha256=manifest.weights.sha256,
        )
    await attempts.free_device(conn, attempt)
    return TaskStatus.SUCCESS if moved else None


async def without_result(
    conn: AsyncConnection, attempt: OpenAttempt, reason: Reason, message: str, *, right: ColumnElement[bool]
) -> TaskStatus | None:
    """There is no verified result: the task is cancelled if that was asked for, else retried or failed.

    Answers the task's new status.
    """
    if not await attempts.end(conn, attempt, reason, right):
        return None
    status = await _retry_or_fail(conn, attempt, reason, message) or await _cancel(conn, attempt)
    await attempts.free_device(conn, attempt)
    return status


async def _retry_or_fail(
    conn: AsyncConnection, attempt: OpenAttempt, reason: Reason, message: str
) -> TaskStatus | None:
    """Move the task on, or answer None where that was refused: its owner has asked to cancel it, or it is elsewhere."""
    failure = FAILURES[reason]
    count = await attempts.count_fruitless(conn, attempt.task_id, reason)
    retried = failure.retries_after(count)
    status = TaskStatus.QUEUING if retried else failure.final_status
    moved = await move_task(
        conn,
        attempt.tenant_id,
        attempt.task_id,
        source=TaskStatus.TRAINING,
        to=status,
        reason=reason,
        fence=attempt.fence,
        message=f"{failure.words} {message}".strip(),
        values={"eta_seconds": 0} | ({"not_before": now_sql(conn) + back_off(count)} if retried else {}),
    )
    return status if moved else None


async def _cancel(conn: AsyncConnection, attempt: OpenAttempt) -> TaskStatus | None:
    moved = await move_task(
        conn,
        attempt.tenant_id,
        attempt.task_id,
        source=TaskStatus.TRAINING,
        to=TaskStatus.CANCELED,
        reason=Reason.CANCELED,
        fence=attempt.fence,
        values={"eta_seconds": 0},
    )
    if moved is None:
        return None
    await attempts.correct_reason(conn, attempt, Reason.CANCELED)
    return TaskStatus.CANCELED
