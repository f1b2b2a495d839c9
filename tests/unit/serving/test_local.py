"""Worker processes that go wrong in every way, and what the pool does about each.

The workers are stand-ins: real processes on real sockets, without torch.
"""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from maquette.core.children import GIVEN_FD
from maquette.core.drawing import BaseUse, DrawRequest
from maquette.core.ids import sha256_hex
from maquette.core.processes import identify
from maquette.serving.base import DrawJob, JobRefused, PoolSettings, StoredLora, WorkerLost
from maquette.serving.local import LocalPool
from maquette.storage.object_store import MemoryStore, ObjectStorage
from maquette.testing.stand_in_worker import Beginning, Mishap, Told

STAND_IN = ("-m", "maquette.testing.stand_in_worker")
PATIENCE = 60.0
STEPS = 4
RED, BLUE, GREEN = (BaseUse(f"/bases/{name}", 64 * name[0]) for name in ("red", "blue", "green"))
SETTINGS = PoolSettings(threads=1, start_timeout=PATIENCE, silence_timeout=PATIENCE)

Open = Callable[..., LocalPool]


class Store(ObjectStorage):
    """Storage in memory that answers nothing while it is shut."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.open = asyncio.Event()
        self.open.set()

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        await self.open.wait()
        async for chunk in super().stream(key):
            yield chunk

    async def lora(self, name: str, size: int = 1000) -> StoredLora:
        data = name.encode().ljust(size, b".")
        await self.put(f"models/{name}", data)
        return StoredLora(key=f"models/{name}", sha256=sha256_hex(data))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def open_pool(store: Store, tmp_path: Path) -> AsyncGenerator[Open]:
    """Makes pools of stand-ins that are closed after the test."""
    opened: list[LocalPool] = []

    def open_it(*, workers: int = 1, spoiled: Path | None = None, **changed: Any) -> LocalPool:
        program = (*STAND_IN, "--spoiled", str(spoiled)) if spoiled else STAND_IN
        pool = LocalPool(
            tmp_path / "pool",
            store,
            devices=("cpu",) * workers,
            settings=replace(SETTINGS, program=program, **changed),
        )
        opened.append(pool)
        return pool

    try:
        async with asyncio.timeout(PATIENCE):
            yield open_it
    finally:
        for pool in opened:
            await pool.close()


class Ear:
    """Hears when a worker begins."""

    def __init__(self, order: list[str] | None = None, name: str = "") -> None:
        self.begun = asyncio.Event()
        self._order = order
        self._name = name

    def __call__(self, step: int, steps: int) -> None:
        if self._order is not None and not self.begun.is_set():
            self._order.append(self._name)
        self.begun.set()


def drawing(prompt: str = "a fox", *, base: BaseUse = RED, loras: tuple[StoredLora, ...] = ()) -> DrawJob:
    request = DrawRequest(prompt=prompt, width=16, height=16, steps=STEPS, guidance_scale=7.0, seed=1)
    return DrawJob(base=base, request=request, loras=loras)


async def told(pool: LocalPool) -> Told:
    """What the worker says of itself; it has a child of its own from then on."""
    return msgspec.json.decode(await pool.draw(drawing(Mishap.TELL), Ear()), type=Told)


async def begun(pool: LocalPool, job: DrawJob) -> asyncio.Task[bytes]:
    ear = Ear()
    task = asyncio.create_task(pool.draw(job, ear))
    await ear.begun.wait()
    return task


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def descriptors() -> int:
    """How many this process has open, without those that earlier tests left to the garbage collector."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[str]:
    """Command lines of this process's living or unreaped children."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()):
                found.add(f"{process.name} {(process / 'cmdline').read_bytes()!r}")
    return found


async def test_worker_is_given_what_it_needs_and_nothing_else(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAQUETTE_DATABASE_URL", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # As an HTTP server's socket that its own workers are to inherit.
        os.set_inheritable(listening.fileno(), True)
        pool = open_pool(threads=3, lora_bytes=12345, bases=2)
        await pool.start()
        said = await told(pool)
    assert said.session == said.pid
    assert said.arguments == ["serve", "--fd", "3", "--device", "cpu", "--lora-bytes", "12345", "--bases", "2"]
    assert said.environment["OMP_NUM_THREADS"] == "3"
    assert "secret" not in said.environment.values()
    log = str((tmp_path / "pool/logs/0-cpu.log").resolve())
    sockets = {number: target for number, target in said.descriptors.items() if target.startswith("socket")}
    assert set(sockets) == {GIVEN_FD}
    assert {number: said.descriptors[number] for number in (0, 1, 2)} == {0: os.devnull, 1: log, 2: log}
    assert set(said.descriptors) - {0, 1, 2, GIVEN_FD} <= {4, 5}, said.descriptors


@pytest.mark.parametrize(
    "mishap",
    [
        Mishap.DIE,
        Mishap.HANG,
        Mishap.GARBAGE,
        Mishap.TOO_LONG,
        Mishap.HALF,
        Mishap.WRONG_NUMBER,
        Mishap.WRONG_KIND,
    ],
)
async def test_worker_that_goes_wrong_is_killed_with_its_children_and_replaced(open_pool: Open, mishap: Mishap) -> None:
    pool = open_pool(silence_timeout=1.0 if mishap is Mishap.HANG else PATIENCE)
    await pool.start()
    before = await told(pool)
    spoiling = asyncio.create_task(pool.draw(drawing(mishap), Ear()))
    waiting = asyncio.create_task(pool.draw(drawing(), Ear()))
    with pytest.raises(WorkerLost):
        await spoiling
    assert await waiting
    after = await told(pool)
    assert after.pid != before.pid
    assert identify(before.pid) is None
    assert identify(before.child) is None


async def test_unclean_refusal_is_told_before_the_worker_is_replaced(open_pool: Open) -> None:
    pool = open_pool()
    await pool.start()
    first = await told(pool)
    with pytest.raises(JobRefused, match="as told"):
        await pool.draw(drawing(Mishap.REFUSE), Ear())
    assert (await told(pool)).pid == first.pid
    with pytest.raises(JobRefused, match="as told"):
        await pool.draw(drawing(Mishap.POISONED), Ear())
    assert (await told(pool)).pid != first.pid
    assert identify(first.pid) is None


@pytest.mark.parametrize("mishap", [Mishap.DIE_LATER, Mishap.SPEAK_LATER])
async def test_idle_worker_that_goes_wrong_is_replaced_before_the_next_job(open_pool: Open, mishap: Mishap) -> None:
    pool = open_pool()
    await pool.start()
    first = await told(pool)
    assert await pool.draw(drawing(mishap), Ear())
    await soon(lambda: identify(first.pid) is None)
    assert (await told(pool)).pid != first.pid


@pytest.mark.parametrize("beginning", list(Beginning))
async def test_jobs_wait_while_no_worker_becomes_ready(open_pool: Open, tmp_path: Path, beginning: Beginning) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.write_text(beginning)
    pool = open_pool(spoiled=spoiled, start_timeout=4.0 if beginning is Beginning.SILENT else PATIENCE)
    ear = Ear()
    job = asyncio.create_task(pool.draw(drawing(), ear))
    await pool.start()
    previous = tmp_path / "pool/logs/0-cpu.previous"
    # The log of the first is kept when the second begins.
    await soon(previous.exists)
    state = pool.state()
    assert (state.workers, state.ready, state.waiting) == (1, 0, 1)
    assert not ear.begun.is_set()
    spoiled.unlink()
    assert await job
    assert pool.state().ready == 1


async def test_no_worker_is_started_before_there_is_a_job(open_pool: Open) -> None:
    mine = children()
    pool = open_pool()
    await pool.start()
    await asyncio.sleep(0.3)
    assert children() == mine
    assert await pool.draw(drawing(), Ear())
    assert len(children()) == len(mine) + 1


async def test_lost_workers_are_counted_until_one_carries_out_a_job(open_pool: Open, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.write_text(Beginning.DEAD)
    pool = open_pool(spoiled=spoiled)
    await pool.start()
    pool._wanted.set()
    await soon(lambda: pool._failures[0] >= 2)
    spoiled.unlink()
    await soon(lambda: pool.state().ready == 1)
    # Ready is not enough: one that is lost with each job is ready before every one of them.
    assert pool._failures[0] >= 2
    assert await pool.draw(drawing(), Ear())
    assert pool._failures[0] == 0


async def test_jobs_are_begun_by_what_the_worker_has_loaded(open_pool: Open, store: Store) -> None:
    pool = open_pool()
    await pool.start()
    one, two = await store.lora("one"), await store.lora("two")
    slow = await begun(pool, drawing(Mishap.SLOW, loras=(one,)))
    order: list[str] = []
    jobs = {
        "blue": drawing(base=BLUE),
        "red two": drawing(loras=(two,)),
        "blue again": drawing(base=BLUE),
        "red one": drawing(loras=(one,)),
    }
    drawn: list[asyncio.Task[bytes]] = []
    for name, job in jobs.items():
        drawn.append(asyncio.create_task(pool.draw(job, Ear(order, name))))
        await soon(lambda: pool.state().waiting == len(drawn))
    await soon(lambda: not pool._fetching)
    await asyncio.gather(slow, *drawn)
    assert order == ["red one", "red two", "blue", "blue again"]


async def test_every_base_that_a_worker_keeps_counts(open_pool: Open) -> None:
    pool = open_pool(bases=2)
    await pool.start()
    for base in (RED, BLUE):
        assert await pool.draw(drawing(base=base), Ear())
    slow = await begun(pool, drawing(Mishap.SLOW, base=BLUE))
    order: list[str] = []
    jobs = {"green": GREEN, "red": RED, "blue": BLUE}
    drawn = [asyncio.create_task(pool.draw(drawing(base=base), Ear(order, name))) for name, base in jobs.items()]
    await asyncio.gather(slow, *drawn)
    assert order == ["red", "blue", "green"]


async def test_oldest_job_is_begun_first_once_it_has_waited_too_long(open_pool: Open) -> None:
    pool = open_pool(longest_wait=0.0, overdue_slice=1)
    await pool.start()
    slow = await begun(pool, drawing(Mishap.SLOW))
    order: list[str] = []
    drawn: list[asyncio.Task[bytes]] = []
    for name, base in (("blue", BLUE), ("red", RED)):
        drawn.append(asyncio.create_task(pool.draw(drawing(base=base), Ear(order, name))))
        await asyncio.sleep(0.02)
    await asyncio.gather(slow, *drawn)
    assert order == ["blue", "red"]


async def test_closing_ends_who_waits_for_versions(open_pool: Open, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.write_text(Beginning.SILENT)
    pool = open_pool(spoiled=spoiled)
    await pool.start()
    asking = asyncio.create_task(pool.versions())
    await soon(lambda: bool(pool._processes))
    assert not asking.done()
    await pool.close()
    with pytest.raises(WorkerLost):
        await asking


async def test_each_device_draws_by_itself(open_pool: Open) -> None:
    pool = open_pool(workers=2)
    await pool.start()
    drawn = [await begun(pool, drawing(Mishap.SLOW)), await begun(pool, drawing(Mishap.SLOW))]
    assert pool.state().drawing == 2
    assert pool.workers == 2
    await asyncio.gather(*drawn)


async def test_slow_storage_keeps_no_worker_from_other_jobs(open_pool: Open, store: Store) -> None:
    pool = open_pool()
    await pool.start()
    store.open.clear()
    first = asyncio.create_task(pool.draw(drawing(loras=(await store.lora("one"),)), Ear()))
    await asyncio.sleep(0.05)
    assert await pool.draw(drawing(), Ear())
    assert not first.done()
    assert pool.state().waiting == 1
    store.open.set()
    assert await first


async def test_files_of_a_cancelled_job_stay_while_its_worker_draws(
    open_pool: Open, store: Store, tmp_path: Path
) -> None:
    pool = open_pool(staged_bytes=1000)
    await pool.start()
    one, two = await store.lora("one"), await store.lora("two")
    first = await begun(pool, drawing(Mishap.SLOW, loras=(one,)))
    first.cancel()
    second = asyncio.create_task(pool.draw(drawing(loras=(two,)), Ear()))
    await asyncio.sleep(0.1)
    assert pool.state().drawing == 1
    assert (tmp_path / f"pool/loras/{one.sha256}.safetensors").exists()
    assert await second
    assert not (tmp_path / f"pool/loras/{one.sha256}.safetensors").exists()
    # The stand-in reads its LoRAs only at the end, and would have died for a missing one.
    assert pool.state().ready == 1


async def test_nothing_is_left_of_a_closed_pool(open_pool: Open, store: Store) -> None:
    # What the loop and the storage open once for all is open before the counting.
    await asyncio.to_thread(os.getpid)
    lora = await store.lora("one")
    await store.get(lora.key)
    before, mine = descriptors(), children()
    pool = open_pool(workers=2)
    await pool.start()
    said = await told(pool)
    for mishap in (Mishap.DIE, Mishap.GARBAGE):
        with pytest.raises(WorkerLost):
            await pool.draw(drawing(mishap, loras=(lora,)), Ear())
    hanging = await begun(pool, drawing(Mishap.HANG))
    await pool.close()
    with pytest.raises(WorkerLost):
        await hanging
    assert identify(said.child) is None
    assert children() <= mine
    assert descriptors() <= before


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.005, 0.02, 0.1, 0.5])
async def test_pool_can_be_closed_at_any_moment_of_its_start(open_pool: Open, moment: float) -> None:
    await asyncio.to_thread(os.getpid)
    before, mine = descriptors(), children()
    pool = open_pool(workers=2)
    await pool.start()
    job = asyncio.create_task(pool.draw(drawing(Mishap.HANG), Ear()))
    await asyncio.sleep(moment)
    await pool.close()
    with pytest.raises(WorkerLost):
        await job
    assert children() <= mine
    assert descriptors() <= before


SERVER = """
import asyncio, sys
from pathlib import Path
from maquette.serving.base import PoolSettings
from maquette.serving.local import LocalPool
from maquette.storage.registry import open_storage

async def serve():
    settings = PoolSettings(threads=1, program=("-m", "maquette.testing.stand_in_worker"))
    pool = LocalPool(Path(sys.argv[1]), open_storage("memory://"), devices=("cpu",), settings=settings)
    await pool.start()
    pool._wanted.set()
    while not pool.state().ready:
        await asyncio.sleep(0.02)
    print(pool._processes[0].pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(serve())
"""


def test_worker_ends_with_a_killed_server(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid = int(next(line for line in server.stdout if line.strip().isdigit()))
        assert identify(pid)
        server.send_signal(signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while identify(pid) and time.monotonic() < until:
            time.sleep(0.02)
        assert identify(pid) is None
