"""How far a task is, and the measurements of its steps."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.metrics import MetricsBlock, first_step_of_block
from maquette.core.progress import Step
from maquette.db.dialects import insert
from maquette.db.now import now_sql
from maquette.db.tables import metrics_blocks, tasks
from maquette.server.loops.attempts import OpenAttempt


async def record(conn: AsyncConnection, attempt: OpenAttempt, steps: Sequence[Step]) -> None:
    """Store the steps an attempt has taken since the last call; an older fence's steps change nothing."""
    if not steps:
        return
    newest = steps[-1]
    pace = sum(step.seconds for step in steps) / len(steps)
    result = await conn.execute(
        update(tasks)
        .where(tasks.c.id == attempt.task_id, tasks.c.fence == attempt.fence)
        .values(
            step=newest.step,
            total_steps=newest.total_steps,
            eta_seconds=round(pace * (newest.total_steps - newest.step)),
            updated_at=now_sql(conn),
        )
    )
    if result.rowcount == 1:
        await _record_metrics(conn, attempt, steps)


async def _record_metrics(conn: AsyncConnection, attempt: OpenAttempt, steps: Sequence[Step]) -> None:
    """Add steps to their blocks. Where the last of them stands the run ends: what was measured beyond it, by a lost
    attempt or before the run stepped back, maybe among these very steps, is cut off.
    """
    newest = steps[-1].step
    await conn.execute(
        delete(metrics_blocks).where(metrics_blocks.c.task_id == attempt.task_id, metrics_blocks.c.first_step > newest)
    )
    blocks: dict[int, MetricsBlock] = {}
    for step in steps:
        first = first_step_of_block(step.step)
        if first not in blocks:
            blocks[first] = await _load_block(conn, attempt.task_id, first)
        blocks[first].put(step)
    for block in blocks.values():
        if block.first_step <= newest:
            await _store_block(conn, attempt, block)


async def _load_block(conn: AsyncConnection, task_id: str, first_step: int) -> MetricsBlock:
    data = await conn.scalar(
        select(metrics_blocks.c.data).where(
            and_(metrics_blocks.c.task_id == task_id, metrics_blocks.c.first_step == first_step)
        )
    )
    return msgspec.msgpack.decode(data, type=MetricsBlock) if data else MetricsBlock(first_step=first_step)


async def _store_block(conn: AsyncConnection, attempt: OpenAttempt, block: MetricsBlock) -> None:
    values = {"fence": attempt.fence, "last_step": block.last_step, "data": msgspec.msgpack.encode(block)}
    await conn.execute(
        insert(conn, metrics_blocks)
        .values(task_id=attempt.task_id, first_step=block.first_step, tenant_id=attempt.tenant_id, **values)
        .on_conflict_do_update(index_elements=["task_id", "first_step"], set_=values)
    )
