"""How an attempt ends: its task's next status, its own row and its device, in one transaction."""

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import FAILURES, FailureClass, Reason, TaskStatus
from maquette.core.rundir import Manifest
from maquette.db.move import move_task
from maquette.db.now import now_sql
from maquette.server.loops import attempts
from maquette.server.loops.attempts import OpenAttempt
from maquette.server.models import service as models

FIRST_BACK_OFF = 1.0
LONGEST_BACK_OFF = 60.0


async def with_model(conn: AsyncConnection, attempt: OpenAttempt, manifest: Manifest) -> None:
    """The result is verified: the task succeeds and its model is born."""
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
    await attempts.close_attempt(conn, attempt.task_id, attempt.fence, Reason.FINISHED)


async def without_result(conn: AsyncConnection, attempt: OpenAttempt, reason: Reason, message: str) -> TaskStatus:
    """There is no verified result: the task is cancelled if that was asked for, else retried or failed.

    Returns:
        The status the task was to move to; nothing moved where a newer fence owns it.
    """
    failure = FAILURES[reason]
    failures = attempt.failures + 1
    values: dict[str, object] = {"eta_seconds": 0}
    if attempt.cancel_requested:
        status, why = TaskStatus.CANCELED, Reason.CANCELED
    elif failure.failure_class is not FailureClass.USER and failure.retries_after(failures):
        status, why = TaskStatus.QUEUING, reason
        values |= {"failures": failures, "not_before": now_sql(conn) + back_off(failures)}
    else:
        status, why = failure.final_status, reason
        values["failures"] = failures
    await move_task(
        conn,
        attempt.tenant_id,
        attempt.task_id,
        source=TaskStatus.TRAINING,
        to=status,
        reason=why,
        fence=attempt.fence,
        message="" if why is Reason.CANCELED else f"{failure.words} {message}".strip(),
        values=values,
    )
    await attempts.close_attempt(conn, attempt.task_id, attempt.fence, why)
    return status


def back_off(failures: int) -> float:
    """Seconds before the next attempt: 1, 2, 4, … up to a minute."""
    return min(FIRST_BACK_OFF * 2 ** (failures - 1), LONGEST_BACK_OFF)
