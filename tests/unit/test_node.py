"""What happens on a trainer's node, with real processes: locks, signals, crashes at any line, files on both ways."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from maquette.core import processes
from maquette.core.ids import new_task_id, sha256_hex
from maquette.core.processes import identify, is_alive
from maquette.core.progress import Finished, PhaseBegan
from maquette.core.rundir import (
    CHECKPOINT_MANIFEST,
    CheckpointManifest,
    FileRecord,
    Manifest,
    ProcessRecord,
    RunDirectory,
    RunSpec,
)
from maquette.core.specs import Picture
from maquette.executors import local, node
from maquette.executors.base import AttemptPlan, CheckpointRef, Liveness
from maquette.executors.local import LocalExecutor
from maquette.executors.node import NodeAttempt, NodeSettings, read_log_tail, read_messages
from maquette.executors.process import MARK, TrainerProcess, processes_marked, trainer_environment
from maquette.executors.staging import (
    StagingFailed,
    inside,
    stage_in_newest_checkpoints,
    stage_in_pictures,
    stage_out_checkpoint,
    stage_out_result,
)
from maquette.storage.base import Storage
from maquette.storage.registry import open_storage
from maquette.testing.factories import training_spec

PATIENCE = 30.0


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    yield directory
    TrainerProcess(directory).kill()


@pytest.fixture
def storage() -> Storage:
    return open_storage("memory://")


def soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(run: RunDirectory) -> TrainerProcess:
    process = TrainerProcess(run)
    lock = process.claim()
    assert lock is not None
    process.start(lock, threads=1)
    os.close(lock)
    return process


def start_waiting(run: RunDirectory) -> TrainerProcess:
    """A trainer that lives until it is killed: it waits for somebody to write its spec into a pipe."""
    os.mkfifo(run.spec)
    return start(run)


def record_of(run: RunDirectory) -> ProcessRecord:
    soon(run.process.exists)
    record = run.read(run.process, ProcessRecord)
    assert record is not None
    return record


# Events and log


def test_only_finished_lines_are_read(run: RunDirectory) -> None:
    first, second = b'{"type":"phase","at":1.0,"phase":"train"}\n', b'{"type":"finished","at":2.0}\n'
    run.events.write_bytes(first + second[:9])
    messages, offset = read_messages(run.events, 0)
    assert [type(message) for message in messages] == [PhaseBegan]
    assert offset == len(first)
    assert read_messages(run.events, offset) == ((), offset)
    run.events.write_bytes(first + second)
    assert read_messages(run.events, offset) == ((Finished(at=2.0),), len(first + second))


def test_line_that_is_no_message_is_passed_over(run: RunDirectory) -> None:
    lines = b'not json\n{"type":"from the future","at":1.0}\n{"type":"finished","at":2.0}\n'
    run.events.write_bytes(lines)
    assert read_messages(run.events, 0) == ((Finished(at=2.0),), len(lines))


def test_no_events_and_lost_events_leave_the_offset(run: RunDirectory) -> None:
    assert read_messages(run.events, 0) == ((), 0)
    run.events.write_bytes(b'{"type":"finished","at":2.0}\n')
    assert read_messages(run.events, 1000) == ((), 1000)


def test_log_tail_is_short(run: RunDirectory) -> None:
    assert read_log_tail(run.log) == ""
    run.log.write_bytes(b"".join(b"line %d\n" % number for number in range(100)) + b"\xff at the end")
    lines = read_log_tail(run.log).splitlines()
    assert len(lines) == 40
    assert lines[0] == "line 61"
    assert lines[-1].endswith(" at the end")
    run.log.write_bytes(b"x" * 1_000_000)
    assert len(read_log_tail(run.log)) < 20_000


# The process


def test_trainer_learns_no_secret(tmp_path: Path) -> None:
    ours = {
        "MAQUETTE_DATABASE_URL": "postgresql://user:secret@host/db",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "GOOGLE_APPLICATION_CREDENTIALS": "/secret",
        "HF_TOKEN": "secret",
        "LD_LIBRARY_PATH": "/opt/cuda",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    theirs = trainer_environment(ours, tmp_path, threads=3)
    assert not [name for name, value in theirs.items() if "secret" in value and name != MARK]
    assert not theirs.keys() & {name for name, value in ours.items() if "secret" in value}
    assert theirs["LD_LIBRARY_PATH"] == "/opt/cuda"
    assert theirs["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert theirs["OMP_NUM_THREADS"] == "3"
    assert theirs[MARK] == str(tmp_path)


def test_trainer_leads_its_own_session_and_writes_its_record_first(run: RunDirectory) -> None:
    process = start(run)
    record = record_of(run)
    # Without a spec it ends before it has loaded anything.
    assert record.pid != os.getpid()
    soon(lambda: not process.alive())
    assert process.exit_code == 1
    assert "spec.json" in run.log.read_text() + run.events.read_text()


def test_lock_lives_as_long_as_the_trainer(run: RunDirectory) -> None:
    process = start_waiting(run)
    record = record_of(run)
    assert os.getsid(record.pid) == record.pid
    assert TrainerProcess(run).claim() is None
    assert process.alive()
    os.kill(record.pid, signal.SIGKILL)
    soon(lambda: not process.alive())
    assert process.exit_code == -signal.SIGKILL
    lock = TrainerProcess(run).claim()
    assert lock is not None
    os.close(lock)


def test_lock_of_a_server_that_prepares_counts_as_alive(run: RunDirectory) -> None:
    lock = TrainerProcess(run).claim()
    assert lock is not None
    assert TrainerProcess(run).alive()
    assert TrainerProcess(run).claim() is None
    os.close(lock)
    assert not TrainerProcess(run).alive()


def test_death_before_the_record_is_seen_by_parent_and_stranger(run: RunDirectory) -> None:
    process = TrainerProcess(run)
    lock = process.claim()
    assert lock is not None
    process.start(lock, threads=1)
    os.close(lock)
    process.kill()
    soon(lambda: not process.alive())
    assert not run.process.exists()
    assert not TrainerProcess(run).alive()
    assert process.exit_code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kernel_ended", "number", "starved"),
    [(1, signal.SIGKILL, True), (0, signal.SIGKILL, False), (1, signal.SIGSEGV, False)],
    ids=["starved", "killed by somebody", "crashed"],
)
def test_a_trainer_that_the_kernel_ends_for_want_of_memory_is_told_by_its_count(
    run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kernel_ended: int,
    number: signal.Signals,
    *,
    starved: bool,
) -> None:
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(processes, "VMSTAT", vmstat)
    vmstat.write_text("pgfault 17\noom_kill 3\n")
    process = start_waiting(run)
    os.kill(record_of(run).pid, number)
    vmstat.write_text(f"pgfault 18\noom_kill {3 + kernel_ended}\n")
    soon(lambda: not process.alive())
    assert process.starved is starved


def test_of_a_kernel_that_does_not_count_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "VMSTAT", tmp_path / "none")
    assert processes.killed_for_memory() == 0
    monkeypatch.undo()
    assert processes.killed_for_memory() >= 0


def test_trainer_of_another_server_is_known_by_its_record(run: RunDirectory) -> None:
    process = start_waiting(run)
    record = record_of(run)
    stranger = TrainerProcess(run)
    assert stranger.alive()
    assert stranger.was_started()
    stranger.kill()
    # A zombie until its parent looks; that it has ended is plain before.
    soon(lambda: not stranger.alive())
    assert identify(record.pid) is None
    assert not process.alive()


@pytest.mark.parametrize("other", ["start_ticks", "boot_id"])
def test_same_pid_of_somebody_else_is_left_alone(run: RunDirectory, other: str) -> None:
    ours = identify(os.getpid())
    assert ours is not None
    foreign = replace(ours, start_ticks=1) if other == "start_ticks" else replace(ours, boot_id="of last week")
    run.write(run.process, foreign)
    process = TrainerProcess(run)
    assert not process.alive()
    # It would end this very test.
    process.signal(signal.SIGKILL)
    process.kill()


def test_kill_reaches_what_left_the_group_and_nobody_else(run: RunDirectory, tmp_path: Path) -> None:
    def sleeper(mark: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"], env={MARK: str(mark)}, start_new_session=True)

    with sleeper(run.root) as grandchild, sleeper(tmp_path / "run-2") as neighbour:
        # Its environment is there to be read an instant after the process is.
        soon(lambda: list(processes_marked(run.root)) == [grandchild.pid])
        TrainerProcess(run).kill()
        assert grandchild.wait(PATIENCE) == -signal.SIGKILL
        assert neighbour.poll() is None
        neighbour.kill()


# Launching


class Rig:
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.url = str(root / "storage")
        data = b"any bytes will do"
        spec = training_spec(pictures=0)
        names = [f"{position:02d}-asset.png" for position in range(3)]
        task_id = new_task_id()
        self.picture = data
        self.plan = AttemptPlan(
            task_id=task_id,
            fence=1,
            training=replace(spec, pictures=tuple(Picture(name, sha256_hex(data)) for name in names)),
            base_path="/nowhere",
            pictures=("sealed/1",) * 3,
            resume_from=(),
            device="cpu",
            checkpoint_every=2,
            output_prefix=f"tasks/{task_id}/1",
            name="a cat",
        )
        self.handle = f"{task_id}/1"

    def run(self) -> RunDirectory:
        return RunDirectory(self.root / "runs" / self.handle)

    def open(self, **settings: Any) -> LocalExecutor:
        return LocalExecutor(
            self.root / "runs", open_storage(self.url), devices=("cpu",), settings=NodeSettings(threads=1, **settings)
        )


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await open_storage(rig.url).put("sealed/1", rig.picture)
    yield rig
    TrainerProcess(rig.run()).kill()


def names_under(path: Path) -> set[str]:
    return {found.name for found in path.rglob("*")}


def freeze(record: ProcessRecord) -> None:
    os.kill(record.pid, signal.SIGSTOP)


async def test_run_directory_is_ready_when_the_trainer_starts(rig: Rig) -> None:
    executor = rig.open()
    plan = replace(rig.plan, keep_every=4, leaner=1)
    assert await executor.launch(plan) == rig.handle
    freeze(await asyncio.to_thread(record_of, rig.run()))
    run = rig.run()
    spec = run.read(run.spec, RunSpec)
    assert spec is not None
    # What a plan tells of under the same name reaches the trainer as it is.
    told = set(AttemptPlan.__struct_fields__) & set(RunSpec.__struct_fields__)
    assert told >= {"task_id", "fence", "training", "base_path", "device", "checkpoint_every", "keep_every", "leaner"}
    assert {name: getattr(spec, name) for name in told} == {name: getattr(plan, name) for name in told}
    assert [picture.name for picture in spec.training.pictures] == ["00-asset.png", "01-asset.png", "02-asset.png"]
    assert {(run.images / picture.name).read_bytes() for picture in spec.training.pictures} == {rig.picture}
    assert run.heartbeat.exists()


async def test_a_tenants_attempts_share_a_folder_that_erasing_one_leaves_alone(rig: Rig) -> None:
    executor = rig.open(cache_bytes=7, face_detector="/models/yunet.onnx")
    await executor.launch(replace(rig.plan, tenant_id="tenant-1"))
    freeze(await asyncio.to_thread(record_of, rig.run()))
    spec = rig.run().read(rig.run().spec, RunSpec)
    assert spec is not None
    shared = rig.root / "runs" / ".caches" / "tenant-1"
    assert (spec.cache_path, spec.cache_bytes, spec.face_detector) == (str(shared), 7, "/models/yunet.onnx")
    (shared / "picture").mkdir(parents=True)
    await executor.erase(rig.handle)
    assert await executor.adopt() == ()
    assert shared.exists()


async def test_an_attempt_of_nobody_in_particular_keeps_to_its_own_folder(rig: Rig) -> None:
    await rig.open().launch(rig.plan)
    freeze(await asyncio.to_thread(record_of, rig.run()))
    spec = rig.run().read(rig.run().spec, RunSpec)
    assert spec is not None
    assert spec.cache_path == ""


@pytest.mark.parametrize("nice", [0, 7])
async def test_trainer_stands_back_as_far_as_the_operator_says(rig: Rig, nice: int) -> None:
    await rig.open(nice=nice).launch(rig.plan)
    record = await asyncio.to_thread(record_of, rig.run())
    assert os.getpriority(os.PRIO_PROCESS, record.pid) == max(nice, os.getpriority(os.PRIO_PROCESS, 0))


async def test_trainer_is_the_program_that_the_operator_says(rig: Rig) -> None:
    program = ("-c", "import sys; print('run in', sys.argv[1])")
    await rig.open(program=program).launch(rig.plan)
    await asyncio.to_thread(soon, lambda: f"run in {rig.run().root}" in read_log_tail(rig.run().log))


async def test_poll_is_a_sign_of_life(rig: Rig) -> None:
    executor = rig.open()
    await executor.launch(rig.plan)
    freeze(await asyncio.to_thread(record_of, rig.run()))
    os.utime(rig.run().heartbeat, (0, 0))
    assert (await executor.poll(rig.handle, 0)).liveness is Liveness.RUNNING
    assert rig.run().heartbeat.stat().st_mtime > time.time() - PATIENCE


async def test_a_slow_store_leaves_no_trainer_without_a_sign_of_life(
    run: RunDirectory, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its files are taken, and no longer."""
    await asyncio.to_thread(start_waiting, run)
    (run.events).write_bytes(b'{"type":"checkpoint","at":1.0,"step":2}\n')
    attempt = NodeAttempt(run.root, storage, NodeSettings(threads=1, abandon_after=0.04))
    taking, go_on = asyncio.Event(), asyncio.Event()

    async def slow(storage: Storage, run: RunDirectory, step: int, output_prefix: str) -> None:
        taking.set()
        await go_on.wait()

    monkeypatch.setattr(node, "stage_out_checkpoint", slow)
    run.write(run.plan, plan_of(new_task_id()))
    observing = asyncio.create_task(attempt.observe(0))
    await taking.wait()
    for _ in range(2):
        os.utime(run.heartbeat, (0, 0))
        async with asyncio.timeout(PATIENCE):
            while not run.heartbeat.stat().st_mtime:
                await asyncio.sleep(0.01)
    go_on.set()
    assert (await observing).liveness is Liveness.RUNNING
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("heartbeat")]


def plan_of(task_id: str) -> AttemptPlan:
    """One without pictures, for what asks where its files go."""
    return AttemptPlan(
        task_id=task_id,
        fence=1,
        training=training_spec(pictures=0),
        base_path="/nowhere",
        pictures=(),
        resume_from=(),
        device="cpu",
        checkpoint_every=2,
        output_prefix=f"tasks/{task_id}/1",
    )


async def test_erasing_leaves_no_process_no_zombie_and_no_file(rig: Rig) -> None:
    executor = rig.open()
    await executor.launch(rig.plan)
    record = await asyncio.to_thread(record_of, rig.run())
    await executor.erase(rig.handle)
    with pytest.raises(ProcessLookupError):
        os.kill(record.pid, 0)
    assert names_under(rig.root / "runs") == {"node-id", ".trash"}


async def test_failed_launch_leaves_nothing(rig: Rig) -> None:
    executor = rig.open()
    with pytest.raises(StagingFailed):
        await executor.launch(replace(rig.plan, pictures=("sealed/1", "sealed/1", "sealed/none")))
    assert await executor.adopt() == ()
    assert not rig.run().root.exists()


@pytest.mark.parametrize("patient", [True, False], ids=["the trainer starts meanwhile", "it goes on too late"])
async def test_erasing_amid_a_launch_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch, patient: bool) -> None:
    """The attempt was ended by another server while this one brought its pictures."""
    trainer = rig.root / "endless-trainer"
    trainer.write_text("#!/bin/sh\nexec sleep 60\n")
    trainer.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(trainer))
    executor = rig.open()
    bring, began, go_on = executor._storage.get_file, asyncio.Event(), asyncio.Event()

    async def slow(key: str, path: Path) -> None:
        began.set()
        await go_on.wait()
        await bring(key, path)

    monkeypatch.setattr(executor._storage, "get_file", slow)
    monkeypatch.setattr(local, "DEATH_TAKES", 5.0 if patient else 0.1)
    launching = asyncio.create_task(executor.launch(rig.plan))
    await began.wait()
    erasing = asyncio.create_task(executor.erase(rig.handle))
    await asyncio.sleep(0.1)
    if not patient:
        await erasing
    go_on.set()
    with suppress(OSError):
        await launching
    await erasing
    assert names_under(rig.root / "runs") == {"node-id", ".trash"}
    assert list(processes_marked(rig.run().root)) == []


KILLED_AT_LINE = """
import asyncio, os, signal, sys, threading
from itertools import count
from pathlib import Path
from typing import Any
import msgspec
from maquette.core import children
from maquette.executors import local, node, process, staging
from maquette.executors.base import AttemptPlan
from maquette.executors.node import NodeSettings
from maquette.storage.registry import open_storage

root, url, plan, last_line = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
ours = {module.__file__ for module in (children, local, node, process, staging)}
lines = count(1)

def trace(frame, event, _):
    if frame.f_code.co_filename not in ours:
        return None
    if event == "line" and next(lines) == last_line:
        os.kill(os.getpid(), signal.SIGKILL)
    return trace

executor = local.LocalExecutor(root, open_storage(url), devices=("cpu",), settings=NodeSettings(threads=1))
decoded = msgspec.json.decode(plan.read_bytes(), type=AttemptPlan)
threading.settrace(trace)
sys.settrace(trace)
asyncio.run(executor.launch(decoded))
sys.settrace(None)
print(next(lines) - 1)
"""


def launch_and_die(rig: Rig, line: int) -> subprocess.CompletedProcess[str]:
    """A server of its own that is killed with SIGKILL when it has come to this line of launching; 0 for never."""
    plan = rig.root / "plan.json"
    plan.write_bytes(msgspec.json.encode(rig.plan))
    arguments = [str(rig.root / "runs"), rig.url, str(plan), str(line)]
    return subprocess.run(
        [sys.executable, "-c", KILLED_AT_LINE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
async def lines_of_launch(tmp_path_factory: pytest.TempPathFactory) -> int:
    rig = Rig(tmp_path_factory.mktemp("counted"))
    await open_storage(rig.url).put("sealed/1", rig.picture)
    counted = await asyncio.to_thread(launch_and_die, rig, 0)
    assert counted.returncode == 0, counted.stderr
    TrainerProcess(rig.run()).kill()
    return int(counted.stdout)


@pytest.mark.parametrize("line", [1, 5, 10, 15, 20, 30, 45, 60, 80, 100, 120, 140, -20, -10, -6, -5, -4, -3, -2, -1])
async def test_server_killed_while_launching_leaves_one_trainer_after_the_next_launch(
    rig: Rig, lines_of_launch: int, line: int
) -> None:
    died = await asyncio.to_thread(launch_and_die, rig, line if line > 0 else lines_of_launch + 1 + line)
    assert died.returncode == -signal.SIGKILL
    executor = rig.open()
    for handle in await executor.adopt():
        await executor.poll(handle, 0)
    assert await executor.launch(rig.plan) == rig.handle
    record = await asyncio.to_thread(record_of, rig.run())
    freeze(record)
    assert await executor.launch(rig.plan) == rig.handle
    assert list(processes_marked(rig.run().root)) == [record.pid]
    assert is_alive(record)
    assert (await executor.poll(rig.handle, 0)).liveness is Liveness.RUNNING
    assert await executor.adopt() == (rig.handle,)
    await executor.erase(rig.handle)


# Staging


def record(path: str, data: bytes) -> FileRecord:
    return FileRecord(path, len(data), sha256_hex(data))


def finish(run: RunDirectory, weights: FileRecord, sample: FileRecord) -> None:
    (run.output / "lora.safetensors").write_bytes(b"weights")
    (run.samples / "final.png").write_bytes(b"sample")
    run.write(run.manifest, Manifest(weights=weights, sample=sample, finished_at=1, steps=1, final_loss=0.5))


WEIGHTS = record("output/lora.safetensors", b"weights")
SAMPLE = record("samples/final.png", b"sample")


async def test_result_is_staged_out_once(run: RunDirectory, storage: Storage) -> None:
    finish(run, WEIGHTS, SAMPLE)
    first = await stage_out_result(storage, run, "tasks/1/1")
    assert first is not None
    assert await storage.get("tasks/1/1/output/lora.safetensors") == b"weights"
    # What is closed in storage stays the truth, whatever becomes of the disk.
    (run.output / "lora.safetensors").unlink()
    await storage.delete("tasks/1/1/samples/final.png")
    assert await stage_out_result(storage, run, "tasks/1/1") == first
    assert [info.key async for info in storage.list("tasks/1/1/samples")] == []


async def test_a_result_in_two_layouts_is_staged_out_whole_or_not(run: RunDirectory, storage: Storage) -> None:
    finish(run, WEIGHTS, SAMPLE)
    kohya = record("output/lora-kohya.safetensors", b"as kohya does")
    manifest = Manifest(weights=WEIGHTS, kohya=kohya, sample=SAMPLE, finished_at=1, steps=1, final_loss=0.5)
    run.write(run.manifest, manifest)
    assert await stage_out_result(storage, run, "tasks/1/1") is None
    (run.root / kohya.path).write_bytes(b"as kohya does")
    assert await stage_out_result(storage, run, "tasks/1/1") == manifest
    assert await storage.get("tasks/1/1/output/lora-kohya.safetensors") == b"as kohya does"


@pytest.mark.parametrize(
    "weights",
    [
        replace(WEIGHTS, size=6),
        replace(WEIGHTS, sha256="0" * 64),
        replace(WEIGHTS, path="output/other.safetensors"),
        replace(WEIGHTS, path="../outside"),
        replace(WEIGHTS, path="/etc/passwd"),
        replace(WEIGHTS, path="output"),
    ],
)
async def test_manifest_that_lies_stages_out_nothing(run: RunDirectory, storage: Storage, weights: FileRecord) -> None:
    (run.root.parent / "outside").write_bytes(b"weights")
    finish(run, weights, SAMPLE)
    assert await stage_out_result(storage, run, "tasks/1/1") is None
    assert [info.key async for info in storage.list("")] == []


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"weights": 3}'])
async def test_broken_manifest_counts_as_none(run: RunDirectory, storage: Storage, content: bytes) -> None:
    run.manifest.write_bytes(content)
    assert await stage_out_result(storage, run, "tasks/1/1") is None


async def test_checkpoint_dropped_by_the_trainer_is_passed_over(run: RunDirectory, storage: Storage) -> None:
    assert await stage_out_checkpoint(storage, run, 2, "tasks/1/1") is None
    directory = run.checkpoint(4)
    directory.mkdir()
    state = record("state.safetensors", b"state")
    run.write(directory / CHECKPOINT_MANIFEST, CheckpointManifest(step=4, files=(state,)))
    assert await stage_out_checkpoint(storage, run, 4, "tasks/1/1") is None
    assert [info.key async for info in storage.list("")] == []
    (directory / "state.safetensors").write_bytes(b"state")
    ref = await stage_out_checkpoint(storage, run, 4, "tasks/1/1")
    assert ref is not None
    assert ref.files == (state,)
    assert await storage.get(f"{ref.prefix}/state.safetensors") == b"state"


async def test_samples_join_their_checkpoint_in_the_store(run: RunDirectory, storage: Storage) -> None:
    """They come later, and nothing else of it is put again."""
    attempt = NodeAttempt(run.root, storage, NodeSettings(threads=1))
    run.write(run.plan, plan_of(new_task_id()))
    directory = run.checkpoint(2)
    directory.mkdir()
    state, picture = record("state.safetensors", b"state"), record("sample-0.png", b"picture")
    (directory / state.path).write_bytes(b"state")
    run.write(directory / CHECKPOINT_MANIFEST, CheckpointManifest(step=2, files=(state,)))
    run.events.write_bytes(b'{"type":"checkpoint","at":1.0,"step":2}\n')
    seen = await attempt.observe(0)
    (alone,) = seen.checkpoints
    assert alone.files == (state,)

    await storage.delete(f"{alone.prefix}/{state.path}")
    (directory / picture.path).write_bytes(b"picture")
    run.write(directory / CHECKPOINT_MANIFEST, CheckpointManifest(step=2, files=(state, picture)))
    with run.events.open("ab") as events:
        events.write(b'{"type":"samples","at":2.0,"step":2}\n')
    seen = await attempt.observe(seen.offset)
    assert seen.checkpoints == (replace(alone, files=(state, picture)),)
    assert [info.key async for info in storage.list(alone.prefix)] == [
        f"{alone.prefix}/{name}" for name in (CHECKPOINT_MANIFEST, picture.path)
    ]
    # What is stored stays named, whatever becomes of the disk.
    shutil.rmtree(directory)
    assert (await attempt.observe(0)).checkpoints == seen.checkpoints * 2


async def stored_checkpoint(storage: Storage, step: int) -> CheckpointRef:
    state = b"state of step %d" % step
    await storage.put(f"tasks/1/1/checkpoints/{step}/state.safetensors", state)
    return CheckpointRef(step=step, prefix=f"tasks/1/1/checkpoints/{step}", files=(record("state.safetensors", state),))


def checkpoints_in(run: RunDirectory) -> set[str]:
    return {path.name for path in run.checkpoints.iterdir()}


async def test_the_newest_two_usable_checkpoints_are_staged_in_and_nothing_of_the_others(
    run: RunDirectory, storage: Storage
) -> None:
    first, older, newer = [await stored_checkpoint(storage, step) for step in (2, 4, 8)]
    await stage_in_newest_checkpoints(storage, run, (newer, newer, older, first))
    assert checkpoints_in(run) == {"step-000004", "step-000008"}
    await storage.put(f"{newer.prefix}/state.safetensors", b"other bytes")
    with capture_logs() as logs:
        await stage_in_newest_checkpoints(storage, run, (newer, older))
    assert [(line["event"], line["checkpoint"]) for line in logs] == [("checkpoint unusable", newer.prefix)]
    assert checkpoints_in(run) == {"step-000004"}
    manifest = run.read(run.checkpoint(4) / CHECKPOINT_MANIFEST, CheckpointManifest)
    assert manifest == CheckpointManifest(step=4, files=older.files)
    await storage.delete(f"{older.prefix}/state.safetensors")
    await stage_in_newest_checkpoints(storage, run, (newer, older))
    assert checkpoints_in(run) == set()


async def test_disk_that_fails_is_no_reason_for_an_older_checkpoint(run: RunDirectory, storage: Storage) -> None:
    refs = (await stored_checkpoint(storage, 8), await stored_checkpoint(storage, 4))
    run.checkpoint(8).write_bytes(b"in the way")
    with pytest.raises(FileExistsError):
        await stage_in_newest_checkpoints(storage, run, refs)


async def test_picture_already_there_is_not_fetched_again(run: RunDirectory, storage: Storage) -> None:
    wanted = Picture("00-a.png", sha256_hex(b"right"))
    (run.images / wanted.name).write_bytes(b"right")
    await stage_in_pictures(storage, run, [wanted], ["sealed/gone"])
    (run.images / wanted.name).write_bytes(b"wrong")
    with pytest.raises(StagingFailed, match=r"00-a\.png"):
        await stage_in_pictures(storage, run, [wanted], ["sealed/gone"])


@pytest.mark.parametrize("name", ["..", "../x", "/x", "a/../../x", "", "a//b", ".hidden"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(StagingFailed):
        inside(tmp_path, name)
