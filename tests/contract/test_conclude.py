"""How an attempt ends: counted by reason since the last progress, never against a cancel, and in one lock order."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import false, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.backoff import back_off
from maquette.core.findings import FindingCode, finding
from maquette.core.ids import new_id
from maquette.core.lifecycle import FAILURES, Reason, TaskStatus
from maquette.core.progress import Found, Note, Step
from maquette.core.rundir import FileRecord, Manifest
from maquette.db.engine import Database, open_database
from maquette.db.move import move_task
from maquette.db.now import now
from maquette.db.tables import attempts, device_claims, events, models, tasks
from maquette.executors.base import CheckpointRef
from maquette.server.loops import attempts as repository
from maquette.server.loops import conclude, progress
from maquette.server.loops.attempts import OpenAttempt, QueuedTask
from maquette.server.loops.watch import tell
from maquette.server.training import service as training
from maquette.testing.factories import SHA256, make_task, make_tenant

SUPERVISOR = "a-server"
RIGHT = repository.supervised_by(SUPERVISOR)
MANIFEST = Manifest(
    weights=FileRecord("output/lora.safetensors", 1000, SHA256),
    sample=FileRecord("samples/final.png", 100, SHA256),
    finished_at=1_700_000_000,
    steps=10,
    final_loss=0.5,
)


async def begin(conn: AsyncConnection, tenant_id: str, task_id: str) -> OpenAttempt:
    """Dispatch a task to a device of its own; answers the attempt as a loop reads it."""
    fence = (await conn.execute(select(tasks.c.fence).where(tasks.c.id == task_id))).scalar_one()
    task = QueuedTask(id=task_id, tenant_id=tenant_id, fence=fence)
    moved = await move_task(
        conn,
        tenant_id,
        task_id,
        source=TaskStatus.QUEUING,
        to=TaskStatus.TRAINING,
        reason=Reason.DISPATCHED,
        fence=fence,
        values={"fence": fence + 1},
    )
    assert moved is not None
    device, handle = new_id(), f"{task_id}/{fence + 1}"
    await repository.open_attempt(
        conn, task, node_id="node", device=device, handle=handle, supervisor=SUPERVISOR, lease=30.0
    )
    return next(
        attempt
        for attempt in await repository.supervised(conn, "node", SUPERVISOR)
        if (attempt.task_id, attempt.fence) == (task_id, fence + 1)
    )


async def make_attempt(database: Database) -> OpenAttempt:
    """The first attempt of a new task of a new tenant."""
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        return await begin(conn, tenant_id, await make_task(conn, tenant_id))


async def row(database: Database, attempt: OpenAttempt) -> Any:
    async with database.read() as conn:
        return (await conn.execute(select(tasks).where(tasks.c.id == attempt.task_id))).one()


async def attempt_row(database: Database, attempt: OpenAttempt) -> Any:
    async with database.read() as conn:
        is_it = (attempts.c.task_id == attempt.task_id, attempts.c.fence == attempt.fence)
        return (await conn.execute(select(attempts).where(*is_it))).one()


async def cancel(database: Database, attempt: OpenAttempt) -> str:
    async with database.write() as conn:
        return (await training.cancel(conn, attempt.tenant_id, attempt.task_id)).task_status


async def lose(database: Database, attempt: OpenAttempt, reason: Reason = Reason.WORKER_LOST) -> TaskStatus | None:
    async with database.write() as conn:
        return await conclude.without_result(conn, attempt, reason, "", right=RIGHT)


class Run:
    """One task, attempt after attempt."""

    def __init__(self, database: Database, tenant_id: str, task_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._task_id = task_id

    async def lose(self, reason: Reason, *, checkpoint: int | None = None) -> tuple[TaskStatus | None, float]:
        """One attempt that ends for a reason, maybe after it stored a checkpoint; status, and seconds of back-off."""
        async with self._database.write() as conn:
            attempt = await begin(conn, self._tenant_id, self._task_id)
            if checkpoint is not None:
                prefix = f"tasks/{self._task_id}/{attempt.fence}/checkpoints/{checkpoint}"
                await repository.add_checkpoint(conn, attempt, CheckpointRef(step=checkpoint, prefix=prefix, files=()))
            status = await conclude.without_result(conn, attempt, reason, "", right=RIGHT)
            not_before = (await conn.execute(select(tasks.c.not_before))).scalar_one()
            return status, round(not_before - await now(conn))


@pytest.fixture
async def run(database: Database) -> Run:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        return Run(database, tenant_id, await make_task(conn, tenant_id))


RETRIED = [reason for reason, failure in FAILURES.items() if failure.retries_after(0) and failure.attempts < 100]


@pytest.mark.parametrize("reason", RETRIED)
async def test_a_reason_has_as_many_attempts_as_the_table_says(run: Run, reason: Reason) -> None:
    ends = [(await run.lose(reason))[0] for _ in range(FAILURES[reason].attempts)]
    assert ends == [TaskStatus.QUEUING] * (FAILURES[reason].attempts - 1) + [TaskStatus.FAILED]


async def test_each_reason_is_counted_by_itself(run: Run) -> None:
    for reason in (Reason.WORKER_LOST, Reason.WORKER_LOST, Reason.INTERNAL, Reason.OUT_OF_MEMORY, Reason.INTERNAL):
        assert (await run.lose(reason))[0] == TaskStatus.QUEUING
    assert (await run.lose(Reason.OUT_OF_MEMORY))[0] == TaskStatus.FAILED


async def test_progress_ends_a_crash_loop(run: Run) -> None:
    """Forty attempts are lost, and yet the task goes on while every fifth of them gets further."""
    for round_ in range(1, 9):
        for _ in range(4):
            assert (await run.lose(Reason.WORKER_LOST))[0] == TaskStatus.QUEUING
        assert (await run.lose(Reason.WORKER_LOST, checkpoint=round_))[0] == TaskStatus.QUEUING
    ends = [(await run.lose(Reason.WORKER_LOST))[0] for _ in range(5)]
    assert ends == [TaskStatus.QUEUING] * 4 + [TaskStatus.FAILED]


async def test_a_checkpoint_that_is_named_again_has_the_files_it_has_then(database: Database) -> None:
    """Its samples come later than it does."""
    attempt = await make_attempt(database)
    weights = FileRecord("lora.safetensors", 1000, SHA256)
    for files in ((weights,), (weights, FileRecord("sample-0.png", 100, SHA256))):
        ref = CheckpointRef(step=2, prefix="tasks/1/1/checkpoints/step-000002", files=files)
        async with database.write() as conn:
            await repository.add_checkpoint(conn, attempt, ref)
            assert await repository.stored_checkpoints(conn, attempt.task_id) == [ref]


async def test_back_off_grows_with_what_is_counted(run: Run) -> None:
    lost = [await run.lose(Reason.WORKER_LOST) for _ in range(3)]
    other = await run.lose(Reason.INTERNAL)
    got_on = [await run.lose(Reason.WORKER_LOST, checkpoint=5), await run.lose(Reason.WORKER_LOST)]
    assert [pause for _, pause in (*lost, other, *got_on)] == [1, 2, 4, 1, 1, 1]


async def test_what_the_storage_keeps_back_is_asked_for_again_until_the_deadline(run: Run) -> None:
    ends = [await run.lose(Reason.STORAGE_AWAY) for _ in range(10)]
    assert [status for status, _ in ends] == [TaskStatus.QUEUING] * 10
    assert ends[-1][1] == back_off(FAILURES[Reason.STORAGE_AWAY].attempts) == 60.0


async def test_the_users_fault_is_final_even_after_progress(run: Run) -> None:
    assert (await run.lose(Reason.DIVERGED, checkpoint=5))[0] == TaskStatus.FAILED


@pytest.mark.parametrize("reason", [Reason.WORKER_LOST, Reason.BAD_DATASET], ids=["would be retried", "would fail"])
async def test_a_cancel_accepted_after_the_loop_has_read_its_rows_is_carried_out(
    database: Database, reason: Reason
) -> None:
    attempt = await make_attempt(database)
    assert await cancel(database, attempt) == TaskStatus.TRAINING
    assert await lose(database, attempt, reason) == TaskStatus.CANCELED
    task = await row(database, attempt)
    assert (task.status, task.reason, task.message, task.not_before) == ("CANCELED", "canceled", "", 0)
    assert task.finished_at is not None
    assert (await attempt_row(database, attempt)).reason == "canceled"


async def test_a_verified_result_wins_over_a_cancel(database: Database) -> None:
    attempt = await make_attempt(database)
    await cancel(database, attempt)
    async with database.write() as conn:
        assert await conclude.with_model(conn, attempt, MANIFEST, right=RIGHT) == TaskStatus.SUCCESS
    assert (await row(database, attempt)).status == "SUCCESS"


async def test_a_cancel_that_races_with_the_end_of_an_attempt_is_never_lost(
    open_another: Callable[[], Database],
) -> None:
    loops, api = open_another(), open_another()
    for _ in range(20):
        attempt = await make_attempt(loops)
        accepted, _status = await asyncio.gather(cancel(api, attempt), lose(loops, attempt))
        assert accepted in {"TRAINING", "CANCELED"}
        assert (await row(loops, attempt)).status == "CANCELED"


async def everything(database: Database) -> list[Any]:
    async with database.read() as conn:
        found = [await conn.execute(select(table)) for table in (tasks, attempts, device_claims, models)]
        return [rows.all() for rows in found]


async def test_who_has_no_right_to_an_attempt_ends_nothing(database: Database) -> None:
    attempt = await make_attempt(database)
    before = await everything(database)
    async with database.write() as conn:
        for right in (repository.supervised_by("another"), repository.orphaned(conn, "another", 600.0), false()):
            assert await conclude.without_result(conn, attempt, Reason.WORKER_LOST, "", right=right) is None
            assert await conclude.with_model(conn, attempt, MANIFEST, right=right) is None
            assert not await repository.store_launched(conn, attempt, right)
            advanced = await repository.advance(conn, attempt, right=right, offset=9, reason=None, message="")
            assert not advanced
    assert await everything(database) == before


async def test_an_attempt_ends_once(database: Database) -> None:
    attempt = await make_attempt(database)
    assert await lose(database, attempt) == TaskStatus.QUEUING
    async with database.write() as conn:
        second = await begin(conn, attempt.tenant_id, attempt.task_id)
    before = await everything(database)
    assert await lose(database, attempt) is None
    async with database.write() as conn:
        assert await conclude.with_model(conn, attempt, MANIFEST, right=RIGHT) is None
        assert not await repository.store_launched(conn, attempt, RIGHT)
    assert await everything(database) == before
    assert (await attempt_row(database, second)).ended_at is None


async def test_an_attempt_whose_task_is_elsewhere_ends_and_moves_nothing(database: Database) -> None:
    """No code leads there; were it so, nobody must read of a success or a cancel that is not in the database."""
    for conclusion in ("with a result", "without"):
        attempt = await make_attempt(database)
        async with database.write() as conn:
            await conn.execute(update(tasks).where(tasks.c.id == attempt.task_id).values(fence=7))
        async with database.write() as conn:
            if conclusion == "without":
                ended = await conclude.without_result(conn, attempt, Reason.WORKER_LOST, "", right=RIGHT)
            else:
                ended = await conclude.with_model(conn, attempt, MANIFEST, right=RIGHT)
        assert ended is None
        assert (await row(database, attempt)).status == "TRAINING"
        reason = "worker_lost" if conclusion == "without" else "finished"
        assert (await attempt_row(database, attempt)).reason == reason


async def test_an_attempt_that_was_taken_over_or_revived_is_no_orphan_any_more(database: Database) -> None:
    attempt = await make_attempt(database)
    async with database.write() as conn:
        await conn.execute(update(attempts).values(lease_until=await now(conn) - 700))
    async with database.read() as conn:
        assert [orphan.fence for orphan in await repository.orphans(conn, "another", 600.0)] == [1]
    async with database.write() as conn:
        await repository.renew_leases(conn, SUPERVISOR, 30.0)
        right = repository.orphaned(conn, "another", 600.0)
        assert await conclude.without_result(conn, attempt, Reason.WORKER_LOST, "", right=right) is None
    assert (await row(database, attempt)).status == "TRAINING"


async def test_a_finding_is_told_in_the_tasks_history(database: Database) -> None:
    attempt = await make_attempt(database)
    found = finding(FindingCode.BLURRED, "the picture is blurred", "00-a.png")
    async with database.write() as conn:
        await tell(conn, attempt, [Found(at=1.0, finding=found)])
    async with database.read() as conn:
        newest = select(events.c.kind, events.c.data).where(events.c.task_id == attempt.task_id)
        kind, data = (await conn.execute(newest.order_by(events.c.number.desc()).limit(1))).one()
    assert kind == "finding"
    assert data == {
        "code": "blurred",
        "severity": "warning",
        "message": "the picture is blurred",
        "picture": "00-a.png",
    }


async def somebody_waits_for_a_lock(database: Database) -> None:
    async with asyncio.timeout(10), database.read() as conn:
        while not (await conn.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one():
            await asyncio.sleep(0.01)


async def test_storing_and_ending_an_attempt_at_once_do_not_wait_for_each_other(postgresql_url: str) -> None:
    """Each locks the attempt and its task; whoever locked the task first would wait for the other for ever."""
    ours, theirs, watcher = (open_database(postgresql_url) for _ in range(3))
    attempt = await make_attempt(ours)
    step = Step(at=1.0, step=1, total_steps=10, loss=0.5, lr=0.1, seconds=1.0)
    async with ours.write() as conn:
        assert await repository.advance(conn, attempt, right=RIGHT, offset=9, reason=None, message="")
        ending = asyncio.create_task(lose(theirs, attempt))
        await somebody_waits_for_a_lock(watcher)
        await progress.record(conn, attempt, [step])
        await tell(conn, attempt, [Note(at=1.0, text="a note")])
    assert await ending == TaskStatus.QUEUING
    assert (await row(ours, attempt)).step == 1
    for database in (ours, theirs, watcher):
        await database.dispose()


async def test_a_cancel_and_the_end_of_an_attempt_do_not_wait_for_each_other(postgresql_url: str) -> None:
    ours, theirs, watcher = (open_database(postgresql_url) for _ in range(3))
    attempt = await make_attempt(ours)
    async with ours.write() as conn:
        await training.cancel(conn, attempt.tenant_id, attempt.task_id)
        ending = asyncio.create_task(lose(theirs, attempt))
        await somebody_waits_for_a_lock(watcher)
        await tell(conn, attempt, [Note(at=1.0, text="a note")])
    assert await ending == TaskStatus.CANCELED
    for database in (ours, theirs, watcher):
        await database.dispose()
