"""One suite for every executor: the scripted one, and trainers that really train as processes of this machine.

A rig is a node on which executors can be opened and reopened, as a server is restarted, and on which a test can do to
an attempt what life does: kill it, make it deaf, spoil what it left.
"""

import asyncio
import io
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import safetensors
from msgspec.structs import replace
from PIL import Image

from maquette.core.basefolder import base_sha256
from maquette.core.ids import new_task_id, sha256_hex
from maquette.core.processes import is_alive
from maquette.core.progress import CheckpointSaved, Failed, Finished, Started, Step, Stopped, TrainerMessage
from maquette.core.rundir import FileRecord, ProcessRecord, RunDirectory
from maquette.core.specs import Picture, TrainingSpec
from maquette.executors.base import AttemptPlan, CheckpointRef, Executor, Liveness, Observation, UnknownAttempt
from maquette.executors.local import LocalExecutor
from maquette.executors.node import NodeSettings
from maquette.storage.base import Storage, StorageFailed
from maquette.storage.registry import open_storage
from maquette.testing.factories import training_spec
from maquette.testing.scripted_executor import Script, ScriptedExecutor, ScriptedNode
from maquette.testing.tiny_family import build_tiny_base

PATIENCE = 120.0
"""Seconds after which a test gives up on an attempt."""
STEP_BOUNDARY = 0.3
GRACE = 0.5
SLACK = 10.0
"""Seconds a busy machine may take for what needs none; without its kill a deaf attempt would outlast them by far."""
STEPS = 6
CHECKPOINT_EVERY = 2
ENDLESS = 10_000
SIDE = 64


class Rig(ABC):
    """A node, and what a test may do to it."""

    def __init__(self, storage: Storage, training: TrainingSpec, pictures: tuple[str, ...], base: Path) -> None:
        self.storage = storage
        self.training = training
        self.pictures = pictures
        self.base = base
        self.opened: list[Executor] = []

    @abstractmethod
    def _open(self) -> Executor: ...

    @abstractmethod
    async def kill(self, executor: Executor, handle: str) -> None:
        """End an attempt's trainer with SIGKILL; it is dead when this returns."""

    @abstractmethod
    async def launch_deaf(self, executor: Executor, plan: AttemptPlan) -> str:
        """Launch an attempt that hears neither stop requests nor SIGTERM."""

    @abstractmethod
    async def launch_forger(self, executor: Executor, plan: AttemptPlan) -> str:
        """Launch an attempt that ends with a manifest of other bytes than it left."""

    def open(self) -> Executor:
        """An executor on this node; a second one is what a restarted server has."""
        self.opened.append(self._open())
        return self.opened[-1]

    def plan(
        self,
        *,
        steps: int = STEPS,
        fence: int = 1,
        task_id: str | None = None,
        resume_from: tuple[CheckpointRef, ...] = (),
    ) -> AttemptPlan:
        task_id = task_id or new_task_id()
        return AttemptPlan(
            task_id=task_id,
            fence=fence,
            training=replace(self.training, settings=replace(self.training.settings, max_train_steps=steps)),
            base_path=str(self.base),
            pictures=self.pictures,
            resume_from=resume_from,
            device="cpu",
            checkpoint_every=CHECKPOINT_EVERY if steps < ENDLESS else 500,
            output_prefix=f"tasks/{task_id}/{fence}",
        )

    async def clear(self) -> None:
        """End and forget every attempt."""
        for executor in self.opened:
            await executor.close()
        for handle in await self.opened[0].adopt() if self.opened else ():
            await self.opened[0].erase(handle)


class ScriptedRig(Rig):
    def __init__(self, storage: Storage, training: TrainingSpec, pictures: tuple[str, ...], base: Path) -> None:
        super().__init__(storage, training, pictures, base)
        self.node = ScriptedNode()

    def _open(self) -> Executor:
        return ScriptedExecutor(self.node, self.storage, step_boundary=STEP_BOUNDARY)

    async def kill(self, executor: Executor, handle: str) -> None:
        assert isinstance(executor, ScriptedExecutor)
        executor.kill(handle)

    async def launch_deaf(self, executor: Executor, plan: AttemptPlan) -> str:
        self.node.script(plan.task_id, Script(ignores_stop=True))
        return await executor.launch(plan)

    async def launch_forger(self, executor: Executor, plan: AttemptPlan) -> str:
        self.node.script(plan.task_id, Script(wrong_hash=True))
        return await executor.launch(plan)


class LocalRig(Rig):
    def __init__(
        self, storage: Storage, training: TrainingSpec, pictures: tuple[str, ...], base: Path, root: Path
    ) -> None:
        super().__init__(storage, training, pictures, base)
        self.root = root

    def _open(self) -> Executor:
        return LocalExecutor(
            self.root, self.storage, devices=("cpu",), settings=NodeSettings(threads=1), step_boundary=STEP_BOUNDARY
        )

    def run(self, handle: str) -> RunDirectory:
        return RunDirectory(self.root / handle)

    def process(self, handle: str) -> ProcessRecord | None:
        run = self.run(handle)
        return run.read(run.process, ProcessRecord)

    async def kill(self, executor: Executor, handle: str) -> None:
        process = self.process(handle)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await soon(lambda: not is_alive(process))

    async def launch_deaf(self, executor: Executor, plan: AttemptPlan) -> str:
        handle = await executor.launch(plan)
        await soon(lambda: self.process(handle) is not None)
        process = self.process(handle)
        assert process is not None
        # Hears nothing but SIGKILL any more.
        os.kill(process.pid, signal.SIGSTOP)
        return handle

    async def launch_forger(self, executor: Executor, plan: AttemptPlan) -> str:
        handle = await executor.launch(plan)
        await soon(lambda: (process := self.process(handle)) is not None and not is_alive(process))
        weights = next(self.run(handle).output.glob("*.safetensors"))
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        return handle


class Witnessed:
    """All that polls of one attempt have shown, in the order of their answers."""

    def __init__(self, executor: Executor, handle: str) -> None:
        self.executor = executor
        self.handle = handle
        self.messages: list[TrainerMessage] = []
        self.checkpoints: list[CheckpointRef] = []
        self.offset = 0

    async def poll(self) -> Observation:
        seen = await self.executor.poll(self.handle, self.offset)
        self.messages += seen.messages
        self.checkpoints += seen.checkpoints
        self.offset = seen.offset
        return seen

    async def until(self, done: Callable[["Witnessed", Observation], bool]) -> Observation:
        deadline = time.monotonic() + PATIENCE
        while not done(self, seen := await self.poll()):
            assert seen.liveness is Liveness.RUNNING, f"ended too early: {self.messages[-1:]}\n{seen.log_tail}"
            assert time.monotonic() < deadline, f"nothing more happens after {self.messages[-1:]}"
            await asyncio.sleep(0.02)
        return seen

    async def until_exited(self) -> Observation:
        return await self.until(lambda _, seen: seen.liveness is Liveness.EXITED)

    async def until_said(self, kind: type[TrainerMessage]) -> None:
        await self.until(lambda self, _: any(isinstance(message, kind) for message in self.messages))

    def said(self, kind: type[TrainerMessage]) -> list[TrainerMessage]:
        return [message for message in self.messages if isinstance(message, kind)]


async def soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def matches(storage: Storage, prefix: str, records: Sequence[FileRecord]) -> bool:
    found = {record: await storage.get(f"{prefix}/{record.path}") for record in records}
    return all(len(data) == record.size and sha256_hex(data) == record.sha256 for record, data in found.items())


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (shade, 80, 160)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module", params=["scripted", pytest.param("local", marks=pytest.mark.torch)])
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    root = tmp_path_factory.mktemp("node")
    storage = open_storage(str(root / "storage"))
    sealed = [picture(shade) for shade in (40, 200)]
    spec = training_spec(pictures=0)
    base = root / "base"
    spec = replace(
        spec,
        pictures=tuple(Picture(f"{position:02d}-asset.png", sha256_hex(data)) for position, data in enumerate(sealed)),
        preparation=replace(spec.preparation, width=SIDE, height=SIDE),
        sample=replace(spec.sample, width=SIDE, height=SIDE, steps=2),
    )
    keys = tuple(f"sealed/{position}" for position in range(len(sealed)))
    for key, data in zip(keys, sealed, strict=True):
        await storage.put(key, data)
    if request.param == "scripted":
        rig = ScriptedRig(storage, spec, keys, base)
    else:
        build_tiny_base(base)
        spec = replace(spec, base=replace(spec.base, sha256=base_sha256(base)))
        rig = LocalRig(storage, spec, keys, base, root / "runs")
    yield rig
    await rig.clear()


@pytest.fixture
async def executor(rig: Rig) -> AsyncIterator[Executor]:
    executor = rig.open()
    yield executor
    await executor.close()


class Trained:
    """One undisturbed attempt, watched to its end."""

    def __init__(self, plan: AttemptPlan, witnessed: Witnessed, last: Observation) -> None:
        self.plan = plan
        self.witnessed = witnessed
        self.last = last


@pytest.fixture(scope="module")
async def trained(rig: Rig) -> Trained:
    plan, executor = rig.plan(), rig.open()
    witnessed = Witnessed(executor, await executor.launch(plan))
    return Trained(plan, witnessed, await witnessed.until_exited())


async def test_messages_tell_the_whole_run(trained: Trained) -> None:
    first, *_, last = trained.witnessed.messages
    assert isinstance(first, Started)
    assert first.resumed_from is None
    assert isinstance(last, Finished)
    steps = [message for message in trained.witnessed.messages if isinstance(message, Step)]
    assert [message.step for message in steps] == list(range(1, STEPS + 1))
    assert {message.total_steps for message in steps} == {STEPS}
    assert trained.witnessed.said(Failed) == []
    assert trained.last.exit_code == 0


async def test_polling_twice_from_one_offset_answers_the_same(rig: Rig, trained: Trained) -> None:
    executor, handle = trained.witnessed.executor, trained.witnessed.handle
    whole = await executor.poll(handle, 0)
    assert list(whole.messages) == trained.witnessed.messages
    assert await executor.poll(handle, 0) == whole
    assert whole.manifest == trained.last.manifest
    at_the_end = await executor.poll(handle, whole.offset)
    assert at_the_end.messages == ()
    assert at_the_end.offset == whole.offset == trained.witnessed.offset


async def test_checkpoints_are_whole_in_storage(rig: Rig, trained: Trained) -> None:
    saved = [message.step for message in trained.witnessed.messages if isinstance(message, CheckpointSaved)]
    assert saved[:2] == [2, 4]
    staged = trained.witnessed.checkpoints
    assert {ref.step for ref in staged} <= set(saved)
    assert saved[-1] in {ref.step for ref in staged}
    for ref in staged:
        assert ref.files
        assert ref.prefix.startswith(trained.plan.output_prefix)
        assert await matches(rig.storage, ref.prefix, ref.files)


async def test_result_is_whole_in_storage(rig: Rig, trained: Trained) -> None:
    manifest, prefix = trained.last.manifest, trained.plan.output_prefix
    assert manifest is not None
    assert manifest.steps == STEPS
    assert await matches(rig.storage, prefix, (manifest.weights, manifest.sample))
    tensors = safetensors.deserialize(await rig.storage.get(f"{prefix}/{manifest.weights.path}"))
    assert any("lora" in name for name, _ in tensors)
    sample = await rig.storage.get(f"{prefix}/{manifest.sample.path}")
    assert Image.open(io.BytesIO(sample)).size == (SIDE, SIDE)


async def test_second_launch_starts_nothing(trained: Trained) -> None:
    executor = trained.witnessed.executor
    assert await executor.launch(trained.plan) == trained.witnessed.handle
    again = await executor.poll(trained.witnessed.handle, 0)
    assert again.liveness is Liveness.EXITED
    assert list(again.messages) == trained.witnessed.messages


async def test_launch_after_a_restart_starts_nothing(executor: Executor, trained: Trained) -> None:
    assert await executor.launch(trained.plan) == trained.witnessed.handle
    again = await executor.poll(trained.witnessed.handle, 0)
    assert again.liveness is Liveness.EXITED
    assert list(again.messages) == trained.witnessed.messages


async def test_dead_attempts_are_adopted_with_all_they_left(executor: Executor, trained: Trained) -> None:
    assert trained.witnessed.handle in await executor.adopt()
    seen = await executor.poll(trained.witnessed.handle, 0)
    assert list(seen.messages) == trained.witnessed.messages
    assert seen.manifest == trained.last.manifest
    assert {ref.step for ref in seen.checkpoints} >= {ref.step for ref in trained.witnessed.checkpoints}


async def test_node_id_survives_restarts(rig: Rig) -> None:
    first, second = rig.open(), rig.open()
    assert first.node_id == second.node_id
    assert first.node_id


async def test_two_launches_at_once_start_one_trainer(rig: Rig, executor: Executor) -> None:
    plan = rig.plan(steps=2)
    first, second = await asyncio.gather(executor.launch(plan), executor.launch(plan))
    assert first == second
    witnessed = Witnessed(executor, first)
    await witnessed.until_exited()
    assert len(witnessed.said(Started)) == 1


async def test_resumed_attempt_goes_on_and_ends_with_the_same_bytes(
    rig: Rig, executor: Executor, trained: Trained
) -> None:
    checkpoint = next(ref for ref in trained.witnessed.checkpoints if ref.step < STEPS)
    plan = rig.plan(task_id=trained.plan.task_id, fence=2, resume_from=(checkpoint,))
    witnessed = Witnessed(executor, await executor.launch(plan))
    last = await witnessed.until_exited()
    started = witnessed.messages[0]
    assert isinstance(started, Started)
    assert started.resumed_from == checkpoint.step
    steps = [message.step for message in witnessed.messages if isinstance(message, Step)]
    assert steps == list(range(checkpoint.step + 1, STEPS + 1)), last.log_tail
    assert last.manifest is not None
    assert trained.last.manifest is not None
    assert last.manifest.weights.sha256 == trained.last.manifest.weights.sha256


def unusable(good: CheckpointRef) -> tuple[CheckpointRef, ...]:
    """The ways in which a checkpoint's objects are lost: other bytes than recorded, and none at all."""
    files = (replace(good.files[0], sha256="0" * 64), *good.files[1:])
    return replace(good, files=files), replace(good, prefix=f"{good.prefix}-gone")


async def test_unusable_checkpoints_give_way_to_an_older_one_and_the_bytes_are_the_same(
    rig: Rig, executor: Executor, trained: Trained
) -> None:
    good, *_, newest = trained.witnessed.checkpoints
    plan = rig.plan(resume_from=(*unusable(newest), good))
    witnessed = Witnessed(executor, await executor.launch(plan))
    last = await witnessed.until_exited()
    started = witnessed.messages[0]
    assert isinstance(started, Started)
    assert started.resumed_from == good.step < newest.step
    assert last.manifest is not None, last.log_tail
    assert trained.last.manifest is not None
    assert last.manifest.weights.sha256 == trained.last.manifest.weights.sha256


async def test_unusable_checkpoints_alone_cost_time_alone(rig: Rig, executor: Executor, trained: Trained) -> None:
    plan = rig.plan(resume_from=unusable(trained.witnessed.checkpoints[-1]))
    witnessed = Witnessed(executor, await executor.launch(plan))
    await witnessed.until_said(Started)
    started = witnessed.messages[0]
    assert isinstance(started, Started)
    assert started.resumed_from is None
    await rig.kill(executor, witnessed.handle)


def refuse(storage: Storage, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a storage fail with all that lies under a prefix."""
    for name in ("get", "get_file"):
        call: Callable[..., Awaitable[bytes | None]] = getattr(storage, name)

        async def refusing(key: str, *rest: Path, call: Callable[..., Awaitable[bytes | None]] = call) -> bytes | None:
            if key.startswith(prefix):
                raise StorageFailed("as if the store were away")
            return await call(key, *rest)

        monkeypatch.setattr(storage, name, refusing)


async def test_checkpoint_that_the_store_refuses_gives_way_to_an_older_one(
    rig: Rig, executor: Executor, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, *_, newest = trained.witnessed.checkpoints
    refuse(rig.storage, newest.prefix, monkeypatch)
    plan = rig.plan(resume_from=(newest, good))
    witnessed = Witnessed(executor, await executor.launch(plan))
    await witnessed.until_said(Started)
    started = witnessed.messages[0]
    assert isinstance(started, Started)
    assert started.resumed_from == good.step
    await rig.kill(executor, witnessed.handle)


async def test_store_that_refuses_every_checkpoint_is_waited_for(
    rig: Rig, executor: Executor, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = tuple(reversed(trained.witnessed.checkpoints))
    plan = rig.plan(resume_from=(*refs, *unusable(refs[-1])))
    with monkeypatch.context() as patch:
        refuse(rig.storage, f"{trained.plan.output_prefix}/checkpoints", patch)
        with pytest.raises(StorageFailed):
            await executor.launch(plan)
    witnessed = Witnessed(executor, await executor.launch(plan))
    await witnessed.until_said(Started)
    started = witnessed.messages[0]
    assert isinstance(started, Started)
    assert started.resumed_from == refs[0].step
    await rig.kill(executor, witnessed.handle)


async def test_what_is_not_wanted_and_left_no_result_is_answered_without_the_storage(
    rig: Rig, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    witnessed = Witnessed(executor, await executor.launch(rig.plan(steps=ENDLESS)))
    await witnessed.until_said(Step)
    await executor.stop(witnessed.handle, PATIENCE)

    async def away(*_: object) -> None:
        raise StorageFailed("as if the store were away")

    for name in ("get", "put", "put_file"):
        monkeypatch.setattr(rig.storage, name, away)
    async with asyncio.timeout(PATIENCE):
        while (seen := await executor.poll(witnessed.handle, 0, wanted=False)).liveness is Liveness.RUNNING:
            await asyncio.sleep(0.02)
    assert any(isinstance(said, CheckpointSaved) for said in seen.messages)
    assert (seen.checkpoints, seen.manifest) == ((), None)


async def test_stop_ends_at_a_step_boundary_also_after_a_restart(rig: Rig, executor: Executor) -> None:
    handle = await executor.launch(rig.plan(steps=ENDLESS))
    before = Witnessed(executor, handle)
    await before.until_said(Step)
    await executor.close()

    restarted = rig.open()
    assert handle in await restarted.adopt()
    after = Witnessed(restarted, handle)
    after.offset = before.offset
    assert (await after.poll()).liveness is Liveness.RUNNING
    await restarted.stop(handle, grace=PATIENCE)
    await restarted.stop(handle, grace=PATIENCE)
    last = await after.until_exited()
    stopped = after.messages[-1]
    assert isinstance(stopped, Stopped)
    assert last.manifest is None
    assert after.checkpoints[-1].step == stopped.step


async def test_deaf_attempt_is_killed_within_its_grace(rig: Rig, executor: Executor) -> None:
    handle = await rig.launch_deaf(executor, rig.plan(steps=ENDLESS))
    began = time.monotonic()
    await executor.stop(handle, GRACE)
    await executor.stop(handle, PATIENCE)
    witnessed = Witnessed(executor, handle)
    last = await witnessed.until_exited()
    assert STEP_BOUNDARY <= time.monotonic() - began < STEP_BOUNDARY + GRACE + SLACK
    assert last.manifest is None
    assert last.exit_code == -signal.SIGKILL


async def test_killed_attempt_is_seen_dead_by_the_next_poll(rig: Rig, executor: Executor) -> None:
    witnessed = Witnessed(executor, await executor.launch(rig.plan(steps=ENDLESS)))
    await witnessed.until_said(Started)
    await rig.kill(executor, witnessed.handle)
    seen = await witnessed.poll()
    assert seen.liveness is Liveness.EXITED
    assert seen.manifest is None
    assert witnessed.said(Finished) == []


async def test_kill_between_two_servers_is_seen_by_the_next(rig: Rig, executor: Executor) -> None:
    witnessed = Witnessed(executor, await executor.launch(rig.plan(steps=ENDLESS)))
    await witnessed.until_said(Started)
    await rig.kill(executor, witnessed.handle)
    await executor.close()
    seen = await rig.open().poll(witnessed.handle, 0)
    assert seen.liveness is Liveness.EXITED
    assert seen.manifest is None


async def test_manifest_of_other_bytes_counts_as_none(rig: Rig, executor: Executor) -> None:
    plan = rig.plan(steps=2)
    handle = await rig.launch_forger(executor, plan)
    witnessed = Witnessed(executor, handle)
    last = await witnessed.until_exited()
    assert isinstance(witnessed.messages[-1], Finished)
    assert last.manifest is None
    staged = [info.key async for info in rig.storage.list(plan.output_prefix)]
    assert [key for key in staged if "/checkpoints/" not in key] == []


async def test_picture_that_can_not_be_staged_in_fails_the_launch(rig: Rig, executor: Executor) -> None:
    missing = replace(rig.plan(), pictures=("sealed/none", *rig.pictures[1:]))
    swapped = replace(rig.plan(), pictures=tuple(reversed(rig.pictures)))
    for plan in (missing, swapped):
        with pytest.raises(OSError, match="sealed"):
            await executor.launch(plan)
        assert not any(plan.task_id in handle for handle in await executor.adopt())


async def test_handle_is_known_before_the_launch_and_to_every_server(rig: Rig, executor: Executor) -> None:
    plan = rig.plan(steps=2)
    handle = executor.handle(plan.task_id, plan.fence)
    assert handle == rig.open().handle(plan.task_id, plan.fence)
    assert handle not in {executor.handle(plan.task_id, 2), executor.handle(new_task_id(), plan.fence)}
    assert handle not in await executor.adopt()
    assert await executor.launch(plan) == handle
    assert handle in await executor.adopt()
    await executor.erase(handle)


async def test_of_a_launch_that_was_cancelled_erasing_leaves_nothing(
    rig: Rig, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, reached = rig.plan(), asyncio.Event()

    async def stall(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    for name in ("get", "get_file"):
        monkeypatch.setattr(rig.storage, name, stall)
    launching = asyncio.create_task(executor.launch(plan))
    await reached.wait()
    launching.cancel()
    await asyncio.wait({launching})
    assert launching.cancelled()
    handle = executor.handle(plan.task_id, plan.fence)
    await executor.erase(handle)
    assert handle not in await executor.adopt()
    with pytest.raises(UnknownAttempt):
        await executor.poll(handle, 0)


async def test_erased_attempt_is_unknown(rig: Rig, executor: Executor) -> None:
    handle = await executor.launch(rig.plan(steps=ENDLESS))
    rig_handles = set(await executor.adopt())
    await executor.erase(handle)
    await executor.erase(handle)
    with pytest.raises(UnknownAttempt):
        await executor.poll(handle, 0)
    assert set(await executor.adopt()) == rig_handles - {handle}


NOBODYS = pytest.param(f"{new_task_id()}/1", id="nobodys attempt")


@pytest.mark.parametrize("handle", ["", "nobody", NOBODYS, "../../etc/1", "a/b/c", "/etc/1"])
async def test_unknown_handles(executor: Executor, handle: str) -> None:
    with pytest.raises(UnknownAttempt):
        await executor.poll(handle, 0)
    await executor.stop(handle, GRACE)
    await executor.erase(handle)
    with pytest.raises(UnknownAttempt):
        await executor.poll(handle, 0)
