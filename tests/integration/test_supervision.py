"""The loops over both databases, with attempts that take milliseconds."""

import asyncio
import errno
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import delete, select

from maquette.core.ids import new_asset_id, new_id
from maquette.core.lifecycle import Reason, TaskStatus
from maquette.core.metrics import MetricsBlock
from maquette.core.progress import MemoryTaken, Planned, Resumed, SteppedBack, TrainerMessage, Validated
from maquette.core.rundir import Manifest
from maquette.db.tables import (
    attempts,
    bases,
    checkpoints,
    device_claims,
    metrics_blocks,
)
from maquette.executors.base import AttemptPlan
from maquette.server.loops import supervision
from maquette.server.loops.attempts import load_plan
from maquette.server.loops.reap import ReapLoop
from maquette.server.loops.sweep import UploadSweep
from maquette.testing.loops import PATIENCE, PICTURE, SETTINGS, SLOW, STEPS, Service
from maquette.testing.scripted_executor import Script, ScriptedAttempt, ScriptedExecutor, ScriptedNode, lora_bytes


async def test_a_task_succeeds_with_a_model_whose_bytes_are_in_storage(service: Service) -> None:
    await service.start()
    task_id = await service.add_task()
    row = await service.ended(task_id)
    assert (row.status, row.reason, row.step, row.eta_seconds) == (TaskStatus.SUCCESS, Reason.FINISHED, STEPS, 0)
    assert row.finished_at is not None
    model = await service.model(task_id)
    assert model.status == "DEPLOYING"
    assert await service.storage.get(model.object_key) == lora_bytes(await service.spec(task_id))
    assert model.name == f"model_1700000001_{model.sha256[:10].upper()}.safetensors"
    assert await service.attempt_reasons(task_id) == ["finished"]
    assert await service.count(device_claims) == 0
    moves = [(move["from"], move["to"], move["reason"]) for move in await service.told(task_id, "task")]
    assert moves == [
        (None, "QUEUING", "created"),
        ("QUEUING", "TRAINING", "dispatched"),
        ("TRAINING", "SUCCESS", "finished"),
    ]


async def test_a_run_is_measured_step_by_step_and_its_last_checkpoints_are_kept(service: Service) -> None:
    await service.start()
    task_id = await service.add_task(steps=512)
    await service.ended(task_id)
    async with service.database.read() as conn:
        rows = await conn.execute(select(metrics_blocks.c.data).order_by(metrics_blocks.c.first_step))
        blocks = [msgspec.msgpack.decode(data, type=MetricsBlock) for data in rows.scalars()]
        kept = (await conn.scalars(select(checkpoints.c.step).order_by(checkpoints.c.step))).all()
    assert [(block.first_step, block.last_step) for block in blocks] == [(1, 256), (257, 512)]
    assert [loss for block in blocks for loss in block.loss] == [1.0 / step for step in range(1, 513)]
    assert list(kept) == [500, 508, 512]
    stored = {
        item.key.split("/checkpoints/")[1].split("/")[0]
        async for item in service.storage.list("tasks")
        if "/checkpoints/" in item.key
    }
    assert stored == {"step-000500", "step-000508", "step-000512"}


async def test_an_attempt_after_one_that_ran_out_of_memory_is_told_to_be_leaner(service: Service) -> None:
    await service.start()
    task_id = await service.add_task(Script(fail_at=1, reason=Reason.OUT_OF_MEMORY))
    row = await service.ended(task_id)
    assert (row.status, row.fence) == (TaskStatus.SUCCESS, 2)
    async with service.database.read() as conn:
        plans = [
            await load_plan(conn, task_id, fence, device="cpu", checkpoint_every=4, keep_every=0) for fence in (1, 2, 3)
        ]
    assert [plan and plan.leaner for plan in plans] == [0, 1, 1]


async def test_what_a_trainer_says_of_how_it_goes_is_in_the_tasks_history(service: Service) -> None:
    task_id = await service.add_task(Script(hang_at=1))
    await service.start()
    await service.until(task_id, TaskStatus.TRAINING, step=1)
    said: list[TrainerMessage] = [
        Planned(
            at=1.0,
            dtype="float32",
            gradient_checkpointing=False,
            micro_batch=1,
            parts_in_turn=False,
            needed_bytes=3,
            free_bytes=9,
            why="it fits",
        ),
        Resumed(at=1.0, step=4, verified=True, recorded=0.5, computed=0.5),
        Validated(at=1.0, step=4, loss=0.25),
        SteppedBack(at=1.0, diverged_at=6, to=4, lr=5e-5, why="the loss of step 6 is nan"),
        MemoryTaken(at=1.0, peak_bytes=2, needed_bytes=3),
    ]
    (attempt,) = service.node.attempts.values()
    attempt.events += b"".join(msgspec.json.encode(message) + b"\n" for message in said)
    async with asyncio.timeout(PATIENCE):
        while not await service.told(task_id, "memory"):
            await asyncio.sleep(0.01)
    assert await service.told(task_id, "plan") == [
        {
            "dtype": "float32",
            "gradient_checkpointing": False,
            "micro_batch": 1,
            "parts_in_turn": False,
            "cuda_graphs": False,
            "needed_bytes": 3,
            "free_bytes": 9,
            "why": "it fits",
        }
    ]
    assert await service.told(task_id, "resumed") == [{"step": 4, "verified": True, "recorded": 0.5, "computed": 0.5}]
    assert await service.told(task_id, "validation") == [{"step": 4, "loss": 0.25}]
    assert [told["to"] for told in await service.told(task_id, "stepped_back")] == [4]
    assert await service.told(task_id, "memory") == [{"peak_bytes": 2, "needed_bytes": 3}]


async def test_a_killed_trainer_is_resumed_from_its_checkpoint_to_the_same_bytes(service: Service) -> None:
    await service.start()
    task_id = await service.add_task(Script(die_at=6))
    row = await service.ended(task_id)
    assert (row.status, row.fence) == (TaskStatus.SUCCESS, 2)
    assert await service.attempt_reasons(task_id) == ["worker_lost", "finished"]
    assert [start["resumed_from"] for start in await service.told(task_id, "started")] == [None, 4]
    model = await service.model(task_id)
    assert await service.storage.get(model.object_key) == lora_bytes(await service.spec(task_id))
    async with service.database.read() as conn:
        data = (await conn.scalars(select(metrics_blocks.c.data))).one()
    assert len(msgspec.msgpack.decode(data, type=MetricsBlock).loss) == STEPS


async def test_a_run_whose_newest_checkpoint_is_lost_goes_on_from_the_one_before(service: Service) -> None:
    task_id = await service.add_task(Script(hang_at=9))
    await service.start()
    await service.until(task_id, TaskStatus.TRAINING, step=9)
    async with service.database.read() as conn:
        prefix = await conn.scalar(select(checkpoints.c.prefix).where(checkpoints.c.step == 8))
    await service.storage.delete(f"{prefix}/state.safetensors")
    (attempt,) = service.node.attempts.values()
    attempt.kill()
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS
    assert [start["resumed_from"] for start in await service.told(task_id, "started")] == [None, 4]
    model = await service.model(task_id)
    assert await service.storage.get(model.object_key) == lora_bytes(await service.spec(task_id))


@pytest.mark.parametrize(
    ("script", "reason", "allowed"),
    [
        (Script(fail_at=2, reason=Reason.BAD_DATASET, words="03.png is cut off"), Reason.BAD_DATASET, 1),
        (Script(fail_at=2, reason=Reason.DIVERGED), Reason.DIVERGED, 1),
        (Script(fail_at=2, reason=Reason.OUT_OF_MEMORY), Reason.OUT_OF_MEMORY, 2),
        (Script(fail_at=2, reason=Reason.INTERNAL), Reason.INTERNAL, 3),
        (Script(die_at=2), Reason.WORKER_LOST, 5),
        (Script(starve_at=2), Reason.OUT_OF_MEMORY, 2),
        (Script(full_at=2), Reason.DISK_FULL, 2),
        (Script(no_manifest=True), Reason.UNVERIFIED, 3),
        (Script(wrong_hash=True), Reason.UNVERIFIED, 3),
    ],
    ids=[
        "bad dataset",
        "diverged",
        "out of memory",
        "internal",
        "killed",
        "starved",
        "full disk",
        "no manifest",
        "wrong hash",
    ],
)
async def test_a_reason_decides_how_often_a_task_is_tried(
    service: Service, script: Script, reason: Reason, allowed: int
) -> None:
    await service.start()
    task_id = await service.add_task(*[script] * 10, steps=3)
    row = await service.ended(task_id)
    assert (row.status, row.reason) == (TaskStatus.FAILED, reason)
    assert await service.attempt_reasons(task_id) == [reason] * allowed
    if script.reason is Reason.BAD_DATASET:
        assert "03.png is cut off" in row.message
    assert await service.model(task_id) is None
    assert await service.count(device_claims) == 0


async def test_one_lean_retry_after_running_out_of_memory_may_succeed(service: Service) -> None:
    await service.start()
    task_id = await service.add_task(Script(fail_at=2, reason=Reason.OUT_OF_MEMORY))
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS


class TamperedStorageExecutor(ScriptedExecutor):
    """Its store garbles what was staged out, after the node had verified it."""

    async def _stage_out_result(self, attempt: ScriptedAttempt) -> Manifest | None:
        manifest = await super()._stage_out_result(attempt)
        if manifest and attempt.plan.fence == 1:
            await self._storage.put(f"{attempt.plan.output_prefix}/{manifest.weights.path}", b"garbled")
        return manifest


async def test_a_result_whose_stored_bytes_differ_is_no_success(service: Service) -> None:
    await service.start(TamperedStorageExecutor(service.node, service.storage))
    task_id = await service.add_task()
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS
    assert await service.attempt_reasons(task_id) == ["unverified", "finished"]


@pytest.mark.parametrize(
    "script", [Script(), Script(ignores_stop=True), Script(hang_at=3)], ids=["obeys", "ignores", "hangs"]
)
async def test_a_cancel_request_ends_a_training_task_canceled(service: Service, script: Script) -> None:
    service.node.step_seconds = SLOW
    await service.start()
    task_id = await service.add_task(script, steps=500)
    await service.until(task_id, TaskStatus.TRAINING, step=2)
    await service.request_cancel(task_id)
    row = await service.ended(task_id)
    assert (row.status, row.reason) == (TaskStatus.CANCELED, Reason.CANCELED)
    assert not any(attempt.alive for attempt in service.node.attempts.values())
    assert await service.count(device_claims) == 0


async def test_a_restarted_server_goes_on_with_the_running_attempt(service: Service) -> None:
    service.node.step_seconds = SLOW
    await service.start()
    task_id = await service.add_task(steps=40)
    await service.until(task_id, TaskStatus.TRAINING, step=3)
    await service.stop()
    await service.start()
    row = await service.ended(task_id)
    assert (row.status, row.fence) == (TaskStatus.SUCCESS, 1)
    async with service.database.read() as conn:
        data = (await conn.scalars(select(metrics_blocks.c.data))).one()
    assert len(msgspec.msgpack.decode(data, type=MetricsBlock).loss) == 40


class FlakyLaunch(ScriptedExecutor):
    """Launching goes wrong the first time."""

    def __init__(self, node: ScriptedNode, storage: Any, error: Exception) -> None:
        super().__init__(node, storage)
        self.errors = [error]

    async def launch(self, plan: AttemptPlan) -> str:
        if self.errors:
            raise self.errors.pop()
        return await super().launch(plan)


async def test_an_attempt_committed_but_not_launched_is_launched_later(service: Service) -> None:
    await service.start(FlakyLaunch(service.node, service.storage, RuntimeError("as if the server had died here")))
    task_id = await service.add_task()
    row = await service.ended(task_id)
    assert (row.status, row.fence) == (TaskStatus.SUCCESS, 1)


async def test_a_full_disk_at_launch_is_a_reason_and_is_tried_again(service: Service) -> None:
    full = OSError(errno.ENOSPC, "no space left on device")
    await service.start(FlakyLaunch(service.node, service.storage, full))
    task_id = await service.add_task()
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS
    assert await service.attempt_reasons(task_id) == ["disk_full", "finished"]


async def test_a_lost_node_costs_an_attempt_not_the_task(service: Service) -> None:
    await service.start()
    task_id = await service.add_task(Script(lost_at=6))
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS
    assert await service.attempt_reasons(task_id) == ["worker_lost", "finished"]


async def test_a_withdrawn_base_fails_the_task(service: Service) -> None:
    task_id = await service.add_task()
    async with service.database.write() as conn:
        await conn.execute(delete(bases))
    await service.start()
    row = await service.ended(task_id)
    assert (row.status, row.reason) == (TaskStatus.FAILED, Reason.BASE_MISSING)


async def test_one_device_takes_one_task_at_a_time_oldest_first(service: Service) -> None:
    first, second = await service.add_task(), await service.add_task()
    await service.start()
    rows = [await service.ended(task_id) for task_id in (first, second)]
    async with service.database.read() as conn:
        started = (await conn.execute(select(attempts.c.task_id, attempts.c.started_at, attempts.c.ended_at))).all()
    spans = {row.task_id: row for row in started}
    assert [row.status for row in rows] == [TaskStatus.SUCCESS] * 2
    assert spans[first].ended_at <= spans[second].started_at


async def test_two_devices_train_side_by_side(service: Service) -> None:
    service.node.step_seconds = SLOW
    await service.start(ScriptedExecutor(service.node, service.storage, devices=("cuda:0", "cuda:1")))
    both = [await service.add_task(steps=50) for _ in range(2)]
    for task_id in both:
        await service.until(task_id, TaskStatus.TRAINING, step=1)
    async with service.database.read() as conn:
        claimed = set(await conn.scalars(select(device_claims.c.device)))
    assert claimed == {"cuda:0", "cuda:1"}
    for task_id in both:
        assert (await service.ended(task_id)).status == TaskStatus.SUCCESS


async def test_a_task_past_its_deadline_fails_queued_or_training(service: Service) -> None:
    service.node.step_seconds = SLOW
    running, queued = await service.add_task(steps=500), await service.add_task()
    await service.start(settings=replace(SETTINGS, task_deadline=3600.0))
    await service.until(running, TaskStatus.TRAINING, step=1)
    service.database.clock.shift(3601)
    for task_id in (running, queued):
        row = await service.ended(task_id)
        assert (row.status, row.reason) == (TaskStatus.FAILED, Reason.TIMED_OUT)


async def test_an_attempt_whose_server_and_node_are_gone_is_given_to_another(service: Service) -> None:
    service.node.step_seconds = SLOW
    await service.start()
    task_id = await service.add_task(Script(hang_at=6))
    await service.until(task_id, TaskStatus.TRAINING, step=6)
    await service.stop()
    service.node.lose()
    service.node = ScriptedNode("another-node")
    settings = replace(SETTINGS, reap_interval=0.05)
    await service.start(settings=settings)
    await asyncio.sleep(0.3)
    assert (await service.row(task_id)).fence == 1, "taken away before its trainer could have ended by itself"
    service.database.clock.shift(SETTINGS.abandon_after + 100)
    row = await service.ended(task_id)
    assert (row.status, row.fence) == (TaskStatus.SUCCESS, 2)


async def test_what_ended_attempts_left_on_the_node_is_erased(service: Service) -> None:
    await service.start(settings=replace(SETTINGS, reap_interval=0.05))
    await service.ended(await service.add_task())
    async with asyncio.timeout(PATIENCE):
        while service.node.attempts:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("failing", ["_end_orphans", "_erase_leftovers", "_forget_old_keys", "_sweep_uploads"])
async def test_what_fails_of_the_clearing_up_starves_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    jobs, done = {"_end_orphans", "_erase_leftovers", "_forget_old_keys", "_sweep_uploads"}, set[str]()
    for job in jobs:

        async def carried_out(_: ReapLoop, job: str = job) -> None:
            if job == failing:
                raise OSError("away")
            done.add(job)

        monkeypatch.setattr(ReapLoop, job, carried_out)
    await service.start()
    async with asyncio.timeout(PATIENCE):
        while done != jobs - {failing}:
            await asyncio.sleep(0.01)


async def test_stopping_does_not_wait_for_a_sweep(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(_: UploadSweep) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(UploadSweep, "run", endless)
    monkeypatch.setattr(supervision, "STOP_SECONDS", 2 * PATIENCE)
    await service.start()
    async with asyncio.timeout(PATIENCE):
        await began.wait()
        await service.stop()
    assert ended.is_set()


async def test_an_upload_that_no_row_names_is_erased(service: Service) -> None:
    key = f"uploads/{service.tenant_id}/{new_asset_id()}/{new_id()}"
    await service.storage.put(key, PICTURE)
    await service.start()
    async with asyncio.timeout(PATIENCE):
        while [info.key async for info in service.storage.list("uploads")]:
            await asyncio.sleep(0.01)


async def test_a_database_that_is_away_for_a_while_costs_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.node.step_seconds = SLOW
    await service.start()
    task_id = await service.add_task(steps=20)
    await service.until(task_id, TaskStatus.TRAINING, step=2)
    write = service.database.write

    def away() -> Any:
        raise ConnectionError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(service.database, "write", away)
        await asyncio.sleep(0.3)
    assert service.database.write == write
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS
