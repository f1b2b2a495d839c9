"""One suite for every pool: the scripted one, and worker processes of this machine.

A bench is a pool, a storage, and the knowledge of how to make one of its workers go wrong. The processes are stand-ins
that speak the worker's protocol without torch; one test draws with the real worker.
"""

import asyncio
import io
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.core.drawing import BaseUse, DrawRequest, Refusal
from maquette.core.ids import sha256_hex
from maquette.core.picture_format import PictureFormat
from maquette.serving.base import (
    DEVICE,
    CompareJob,
    DrawJob,
    JobRefused,
    OnStep,
    Pool,
    PoolSettings,
    StoredLora,
    WorkerLost,
)
from maquette.serving.local import LocalPool
from maquette.serving.queue import Patience
from maquette.storage.base import ObjectMissing, Storage
from maquette.storage.registry import open_storage
from maquette.testing.scripted_pool import ScriptedPool, Turn
from maquette.testing.stand_in_worker import Mishap
from maquette.testing.tiny_family import registered

PATIENCE = 60.0
"""Seconds after which a test gives up on a pool."""
STEPS = 6
SLICE = 3
TINY, OTHER = BaseUse("/bases/tiny", 64 * "a"), BaseUse("/bases/other", 64 * "b")
REAL_PATIENCE = 600.0
"""Seconds the real worker may take on a busy machine, importing torch included."""
STAND_IN = ("-m", "maquette.testing.stand_in_worker")


class Bench(ABC):
    """A pool of one worker, and what a test may do to it. Prompts are words of the bench."""

    def __init__(self, storage: Storage, patience: Patience) -> None:
        self.storage = storage
        self.pool = self._pool(patience)

    @abstractmethod
    def _pool(self, patience: Patience) -> Pool: ...

    @abstractmethod
    def losing(self) -> str:
        """A prompt whose worker is lost midway."""

    @abstractmethod
    def refused(self) -> str:
        """A prompt that a worker refuses as `UNMATCHED_LORA`."""

    @abstractmethod
    def slow(self) -> str:
        """A prompt whose six steps take half a second or more."""

    async def lora(self, data: bytes = b"lora", *, sha256: str | None = None) -> StoredLora:
        """A LoRA in storage."""
        key = f"models/{sha256_hex(data)}"
        await self.storage.put(key, data)
        return StoredLora(key=key, sha256=sha256 or sha256_hex(data))


class ScriptedBench(Bench):
    def _pool(self, patience: Patience) -> ScriptedPool:
        self._scripted = ScriptedPool(self.storage, patience=patience)
        return self._scripted

    def losing(self) -> str:
        self._scripted.script("losing", Turn(loses_worker=True))
        return "losing"

    def refused(self) -> str:
        self._scripted.script("refused", Turn(refusal=Refusal.UNMATCHED_LORA))
        return "refused"

    def slow(self) -> str:
        self._scripted.script("slow", Turn(step_seconds=0.1))
        return "slow"


class LocalBench(Bench):
    def __init__(self, storage: Storage, patience: Patience, root: Path) -> None:
        self._root = root
        super().__init__(storage, patience)

    def _pool(self, patience: Patience) -> LocalPool:
        settings = PoolSettings(
            threads=1,
            longest_wait=patience.longest_wait,
            overdue_slice=patience.slice,
            start_timeout=PATIENCE,
            silence_timeout=PATIENCE,
            program=STAND_IN,
        )
        return LocalPool(self._root, self.storage, devices=("cpu",), settings=settings)

    def losing(self) -> str:
        return Mishap.DIE.value

    def refused(self) -> str:
        return Mishap.REFUSE.value

    def slow(self) -> str:
        return Mishap.SLOW.value


@asynccontextmanager
async def opened(kind: str, root: Path, patience: Patience) -> AsyncGenerator[Bench]:
    storage = open_storage("memory://")
    bench = ScriptedBench(storage, patience) if kind == "scripted" else LocalBench(storage, patience, root)
    await bench.pool.start()
    try:
        async with asyncio.timeout(PATIENCE):
            yield bench
    finally:
        await bench.pool.close()


@pytest.fixture(params=["scripted", "local"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Bench]:
    async with opened(request.param, tmp_path, Patience(longest_wait=PATIENCE, slice=SLICE)) as bench:
        yield bench


@pytest.fixture(params=["scripted", "local"])
async def impatient(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Bench]:
    """A bench where every job is overdue at once."""
    async with opened(request.param, tmp_path, Patience(longest_wait=0.0, slice=SLICE)) as bench:
        yield bench


class Ear:
    """Remembers the progress it hears."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.begun = asyncio.Event()

    def __call__(self, step: int, steps: int) -> None:
        assert steps == STEPS
        self.steps.append(step)
        self.begun.set()


def drawing(prompt: str = "a fox", *, seed: int = 1, loras: tuple[StoredLora, ...] = ()) -> DrawJob:
    request = DrawRequest(prompt=prompt, width=64, height=32, steps=STEPS, guidance_scale=7.0, seed=seed)
    return DrawJob(base=TINY, request=request, loras=loras)


async def begun(pool: Pool, job: DrawJob) -> tuple[asyncio.Task[bytes], Ear]:
    """A job that a worker has begun."""
    ear = Ear()
    task = asyncio.create_task(pool.draw(job, ear))
    await ear.begun.wait()
    return task, ear


async def test_picture_is_drawn_as_asked(bench: Bench) -> None:
    job = drawing()
    picture = await bench.pool.draw(job, Ear())
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.size, image.format) == ((64, 32), "PNG")
    assert await bench.pool.draw(job, Ear()) == picture
    webp = await bench.pool.draw(replace(job, format=PictureFormat.WEBP), Ear())
    with Image.open(io.BytesIO(webp)) as image:
        assert image.format == "WEBP"


async def test_loras_and_seed_reach_the_picture(bench: Bench) -> None:
    one, two = await bench.lora(b"one"), await bench.lora(b"two")
    jobs = [
        drawing(),
        drawing(seed=2),
        drawing(loras=(one,)),
        drawing(loras=(two,)),
        drawing(loras=(one, two)),
        drawing(loras=(one, replace(two, strength=0.5))),
    ]
    pictures = [await bench.pool.draw(job, Ear()) for job in jobs]
    assert len(set(pictures)) == len(jobs)


async def test_progress_begins_before_the_first_step_and_is_in_order(bench: Bench) -> None:
    ear = Ear()
    await bench.pool.draw(drawing(), ear)
    assert ear.steps == [0, *range(1, STEPS + 1)]


async def test_what_the_listener_raises_ends_the_job_alone(bench: Bench) -> None:
    def deaf(step: int, steps: int) -> None:
        if step == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await bench.pool.draw(drawing(), deaf)
    assert await bench.pool.draw(drawing(), Ear())


async def test_comparison_tells_both_distances_and_the_versions(bench: Bench) -> None:
    await bench.storage.put("samples/one", b"a picture")
    job = CompareJob(base=TINY, request=drawing().request, lora=await bench.lora(), sample_key="samples/one")
    comparison = await bench.pool.compare(job)
    assert comparison.from_sample.mean == 0.0
    assert comparison.from_base.largest > 0
    assert comparison.versions
    with pytest.raises(ObjectMissing):
        await bench.pool.compare(replace(job, sample_key="samples/gone"))


async def test_versions_and_device_are_told_before_the_first_job_and_are_those_of_comparisons(bench: Bench) -> None:
    (versions,) = await bench.pool.versions()
    assert versions[DEVICE]
    assert len(versions) > 1
    await bench.storage.put("samples/one", b"a picture")
    job = CompareJob(base=TINY, request=drawing().request, lora=await bench.lora(), sample_key="samples/one")
    assert (await bench.pool.compare(job)).versions == versions


async def test_refusal_says_why_and_the_worker_goes_on(bench: Bench) -> None:
    with pytest.raises(JobRefused) as caught:
        await bench.pool.draw(drawing(bench.refused()), Ear())
    assert caught.value.reason is Refusal.UNMATCHED_LORA
    assert caught.value.message
    assert await bench.pool.draw(drawing(), Ear())


async def test_lost_worker_ends_its_job_alone_and_is_replaced(bench: Bench) -> None:
    losing, ear = await begun(bench.pool, drawing(bench.losing()))
    waiting = asyncio.create_task(bench.pool.draw(drawing(), Ear()))
    with pytest.raises(WorkerLost):
        await losing
    assert 0 < max(ear.steps) < STEPS
    assert await waiting


async def test_lora_that_is_gone_or_another_fails_its_job_alone(bench: Bench) -> None:
    good = await bench.lora()
    gone = StoredLora(key="models/gone", sha256=sha256_hex(b"gone"))
    other = await bench.lora(b"spoiled", sha256=sha256_hex(b"whole"))
    answers = await asyncio.gather(
        *(bench.pool.draw(drawing(loras=(good, lora)), Ear()) for lora in (gone, other)),
        bench.pool.draw(drawing(loras=(good,)), Ear()),
        return_exceptions=True,
    )
    assert isinstance(answers[0], ObjectMissing)
    assert isinstance(answers[1], JobRefused)
    assert answers[1].reason is Refusal.BROKEN_LORA
    assert isinstance(answers[2], bytes)


async def test_many_jobs_are_answered_each_with_its_own_picture(bench: Bench) -> None:
    loras = [await bench.lora(b"%d" % number) for number in range(3)]
    jobs = [drawing(seed=seed, loras=(loras[seed % 3],)) for seed in range(30)]
    pictures = await asyncio.gather(*(bench.pool.draw(job, Ear()) for job in jobs))
    assert len(set(pictures)) == len(jobs)
    for seed in (29, 0, 13):
        assert await bench.pool.draw(jobs[seed], Ear()) == pictures[seed]


async def order_of(bench: Bench, jobs: dict[str, DrawJob]) -> list[str]:
    """In which order jobs are begun that were given, one after the other, while the worker drew with `TINY`."""
    order: list[str] = []

    def on_step(name: str) -> OnStep:
        return lambda step, _: order.append(name) if step == 0 else None

    slow, _ = await begun(bench.pool, drawing(bench.slow()))
    drawn: list[asyncio.Task[bytes]] = []
    for name, job in jobs.items():
        drawn.append(asyncio.create_task(bench.pool.draw(job, on_step(name))))
        while bench.pool.state().waiting < len(drawn):
            await asyncio.sleep(0)
    assert not slow.done(), "the jobs were not given in time"
    await asyncio.gather(slow, *drawn)
    return order


async def test_what_is_loaded_is_drawn_with_first(bench: Bench) -> None:
    lora, other = await bench.lora(b"one"), await bench.lora(b"two")
    for each in (other, lora):
        await bench.pool.draw(replace(drawing(loras=(each,)), base=OTHER), Ear())
    await bench.pool.draw(drawing(loras=(lora,)), Ear())
    jobs = {
        "other base": replace(drawing(loras=(lora,)), base=OTHER),
        "other lora": drawing(loras=(other,)),
        "other base too": replace(drawing(loras=(lora,)), base=OTHER),
        "same": drawing(loras=(lora,)),
    }
    *first, third, last = await order_of(bench, jobs)
    assert first == ["same", "other lora"]
    # Both are as far away; files of the one may have arrived before those of the other.
    assert {third, last} == {"other base", "other base too"}


async def test_overdue_job_is_passed_by_fewer_than_its_slice(impatient: Bench) -> None:
    jobs = {"other base": replace(drawing(), base=OTHER)} | {str(seed): drawing(seed=seed) for seed in range(3 * SLICE)}
    order = await order_of(impatient, jobs)
    assert order.index("other base") < SLICE
    assert set(order) == set(jobs)


async def test_cancelled_while_waiting_is_never_begun(bench: Bench) -> None:
    first, _ = await begun(bench.pool, drawing(bench.slow()))
    ear = Ear()
    second = asyncio.create_task(bench.pool.draw(drawing(seed=2), ear))
    third = asyncio.create_task(bench.pool.draw(drawing(seed=3), Ear()))
    await asyncio.sleep(0.05)
    assert bench.pool.state().waiting == 2
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert bench.pool.state().waiting == 1
    assert await first
    assert await third
    assert ear.steps == []


async def test_cancelled_in_progress_runs_to_its_end_before_the_next(bench: Bench) -> None:
    first, ear = await begun(bench.pool, drawing(bench.slow()))
    following = Ear()
    second = asyncio.create_task(bench.pool.draw(drawing(seed=2), following))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    so_far = list(ear.steps)
    await asyncio.sleep(0.2)
    assert following.steps == []
    assert bench.pool.state().drawing == 1
    assert await second == await bench.pool.draw(drawing(seed=2), Ear())
    assert ear.steps == so_far


async def test_state_follows_the_jobs(bench: Bench) -> None:
    assert bench.pool.workers == 1
    drawn, _ = await begun(bench.pool, drawing(bench.slow()))
    state = bench.pool.state()
    assert (state.workers, state.ready, state.drawing, state.waiting) == (1, 1, 1, 0)
    await drawn
    await bench.pool.draw(drawing(), Ear())
    await asyncio.sleep(0)
    assert bench.pool.state().drawing == 0


async def test_closing_ends_every_job(bench: Bench) -> None:
    first, _ = await begun(bench.pool, drawing(bench.slow()))
    second = asyncio.create_task(bench.pool.draw(drawing(seed=2, loras=(await bench.lora(),)), Ear()))
    await asyncio.sleep(0)
    await bench.pool.close()
    answers = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in answers] == [WorkerLost, WorkerLost]
    with pytest.raises(WorkerLost):
        await bench.pool.draw(drawing(loras=(await bench.lora(),)), Ear())
    with pytest.raises(WorkerLost):
        await bench.pool.versions()
    state = bench.pool.state()
    assert (state.ready, state.drawing, state.waiting) == (0, 0, 0)
    await bench.pool.close()


@pytest.mark.torch
async def test_real_worker_draws_refuses_and_is_replaced_when_killed(tmp_path: Path) -> None:
    storage = open_storage("memory://")
    settings = PoolSettings(threads=1, start_timeout=REAL_PATIENCE, silence_timeout=REAL_PATIENCE)
    pool = LocalPool(tmp_path / "pool", storage, devices=("cpu",), settings=settings)
    job = replace(drawing(), base=registered(BUNDLED_PATH))
    await storage.put("models/broken", b"no safetensors")
    broken = StoredLora(key="models/broken", sha256=sha256_hex(b"no safetensors"))

    def killing(step: int, steps: int) -> None:
        process = pool._processes[0]
        if step == steps // 2 and process.pid:
            os.kill(process.pid, signal.SIGKILL)

    await pool.start()
    try:
        async with asyncio.timeout(REAL_PATIENCE):
            ear = Ear()
            picture = await pool.draw(job, ear)
            assert (ear.steps[0], ear.steps[-1]) == (0, STEPS)
            with Image.open(io.BytesIO(picture)) as image:
                assert image.size == (64, 32)
            for changed, reason in (
                (replace(job, base=BaseUse(str(tmp_path), 64 * "c")), Refusal.BROKEN_BASE),
                (replace(job, loras=(broken,)), Refusal.BROKEN_LORA),
            ):
                with pytest.raises(JobRefused) as caught:
                    await pool.draw(changed, Ear())
                assert caught.value.reason is reason
            with pytest.raises(WorkerLost):
                await pool.draw(job, killing)
            assert await pool.draw(job, Ear()) == picture
    finally:
        await pool.close()
