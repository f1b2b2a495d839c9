"""A pool without processes that keeps every promise of the port, in milliseconds a step.

What it draws are real files of one colour with deterministic bytes: the same for equal jobs, others for other jobs.
"""

import asyncio
import io
import itertools
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from PIL import Image

from maquette.core.drawing import (
    NOTHING_LOADED,
    BaseUse,
    Difference,
    DrawRequest,
    Loaded,
    LoadedBase,
    LoraUse,
    Refusal,
)
from maquette.core.ids import sha256_hex
from maquette.core.picture_format import PictureFormat
from maquette.serving.base import (
    DEVICE,
    CompareJob,
    Comparison,
    DrawJob,
    JobRefused,
    OnStep,
    Pool,
    PoolState,
    StoredLora,
    WorkerLost,
)
from maquette.serving.queue import Patience, Waiting, pick
from maquette.storage.base import Storage

T = TypeVar("T")

CLOSED = "the pool is closed"
BASES = 1
"""Those that a worker keeps."""
PATIENCE = Patience(longest_wait=30.0, slice=16)
PASSING = Comparison(
    from_sample=Difference(mean=0.0, largest=0),
    from_base=Difference(mean=40.0, largest=120),
    versions={DEVICE: "none", "scripted": "1"},
)


class Turn(Struct, frozen=True, kw_only=True):
    """How a job goes.

    Attributes:
        loses_worker: the worker dies after half of the steps.
        refusal: the worker refuses after half of the steps.
        words: what it says then.
        step_seconds: how long a step takes, None is as the pool's.
        comparison: what a comparison measures.
    """

    loses_worker: bool = False
    refusal: Refusal | None = None
    words: str = "as scripted"
    step_seconds: float | None = None
    comparison: Comparison = PASSING


class ScriptedPool(Pool):
    """Draws by itself, in a pool's order; a worker keeps one base.

    Attributes:
        given: every job that was ever given, in order.
        told_versions: what `versions` answers.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        workers: int = 1,
        step_seconds: float = 0.001,
        patience: Patience = PATIENCE,
    ) -> None:
        """Take where LoRAs and samples are, how many jobs are drawn at a time, and how long one step takes.

        `patience` bounds how far jobs are passed over.
        """
        self.given: list[DrawJob | CompareJob] = []
        self.told_versions = [PASSING.versions]
        self._storage = storage
        self._workers = workers
        self._step_seconds = step_seconds
        self._turns: dict[str, list[Turn]] = {}
        self._patience = patience
        self._numbers = itertools.count(1)
        self._free = dict.fromkeys(range(workers), NOTHING_LOADED)
        """What the workers hold that have nothing to do."""
        self._queue: dict[Waiting, asyncio.Future[tuple[int, Loaded]]] = {}
        """Jobs, and who hears which worker begins them and what that holds."""
        self._begun: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._closed = False

    def script(self, prompt: str, *turns: Turn) -> None:
        """Decide how the jobs with this prompt go, first to last; further ones, and other prompts, succeed."""
        self._turns[prompt] = list(turns)

    def lose_workers(self) -> None:
        """Let every worker that draws die at once."""
        for task in self._begun:
            task.cancel()

    @property
    def workers(self) -> int:
        """See `Pool.workers`."""
        return self._workers

    async def start(self) -> None:
        """See `Pool.start`; there is nothing to start."""

    async def draw(self, job: DrawJob, on_step: OnStep) -> bytes:
        """See `Pool.draw`."""
        self.given.append(job)
        caller = _Caller(on_step)
        try:
            return await self._carry_out(self._draw(job, caller.hear))
        finally:
            caller.listens = False

    async def compare(self, job: CompareJob) -> Comparison:
        """See `Pool.compare`."""
        self.given.append(job)
        return await self._carry_out(self._compare(job))

    async def versions(self) -> list[dict[str, str]]:
        """See `Pool.versions`."""
        if self._closed:
            raise WorkerLost(CLOSED)
        return self.told_versions

    def state(self) -> PoolState:
        """See `Pool.state`."""
        ready = 0 if self._closed else self._workers
        return PoolState(workers=self._workers, ready=ready, drawing=len(self._begun), waiting=len(self._waiting))

    async def close(self) -> None:
        """See `Pool.close`."""
        self._closed = True
        tasks = (*self._begun, *self._waiting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a job; it goes on without its caller once it has begun."""
        task = asyncio.create_task(work)
        self._waiting.add(task)
        task.add_done_callback(self._forget)
        if self._closed:
            task.cancel()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            us = asyncio.current_task()
            if us is not None and not us.cancelling():
                raise WorkerLost(CLOSED if self._closed else "the worker died, as scripted") from None
            if task in self._waiting:
                self._waiting.discard(task)
                task.cancel()
            raise

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._begun.discard(task)
        self._waiting.discard(task)
        if not task.cancelled():
            # Where the caller has gone nobody else asks for it.
            task.exception()

    async def _draw(self, job: DrawJob, on_step: OnStep) -> bytes:
        arrival = next(self._numbers)
        await self._fetch(job.loras)
        async with self._worker(arrival, job.base, job.loras):
            await self._step(job.request, self._turn(job.request), on_step)
            return flat_picture(job.base, job.request, job.loras, job.format)

    async def _compare(self, job: CompareJob) -> Comparison:
        arrival = next(self._numbers)
        await self._storage.get(job.sample_key)
        await self._fetch((job.lora,))
        async with self._worker(arrival, job.base, (job.lora,)):
            turn = self._turn(job.request)
            await self._step(job.request, turn, _unheard)
            return turn.comparison

    async def _fetch(self, loras: Sequence[StoredLora]) -> None:
        for lora in loras:
            if sha256_hex(await self._storage.get(lora.key)) != lora.sha256:
                raise JobRefused(Refusal.BROKEN_LORA, f"the object {lora.key} is not the LoRA that was recorded")

    @asynccontextmanager
    async def _worker(self, arrival: int, base: BaseUse, loras: Sequence[StoredLora]) -> AsyncGenerator[None]:
        """A worker for the job that came as number `arrival`, when it is its turn; it holds then what the job needs."""
        files = tuple(lora.sha256 for lora in loras)
        job = Waiting(number=arrival, base=base, loras=files, since=time.monotonic())
        begun = self._queue[job] = asyncio.get_running_loop().create_future()
        self._match()
        try:
            worker, held = await begun
        except asyncio.CancelledError:
            self._queue.pop(job, None)
            if not begun.cancelled():
                self._set_free(*begun.result())
            raise
        try:
            yield
        finally:
            self._set_free(worker, after_use(held, base, files, BASES))

    def _set_free(self, worker: int, held: Loaded) -> None:
        self._free[worker] = held
        self._match()

    def _match(self) -> None:
        while chosen := pick(self._queue.keys(), self._free, now=time.monotonic(), patience=self._patience):
            job, worker = chosen
            begun = self._queue.pop(job)
            # One that was cancelled meanwhile needs none.
            if not begun.done():
                begun.set_result((worker, self._free.pop(worker)))

    def _turn(self, request: DrawRequest) -> Turn:
        turns = self._turns.get(request.prompt)
        return turns.pop(0) if turns else Turn()

    async def _step(self, request: DrawRequest, turn: Turn, on_step: OnStep) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._waiting.discard(task)
        self._begun.add(task)
        on_step(0, request.steps)
        for step in range(1, request.steps + 1):
            await asyncio.sleep(self._step_seconds if turn.step_seconds is None else turn.step_seconds)
            if step > request.steps // 2 and turn.loses_worker:
                raise WorkerLost(turn.words)
            if step > request.steps // 2 and turn.refusal:
                raise JobRefused(turn.refusal, turn.words)
            on_step(step, request.steps)


def _unheard(_step: int, _steps: int) -> None:
    """For jobs whose progress nobody asks for."""


class _Caller:
    """Who waits for a picture, as long as it does."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self.listens = True

    def hear(self, step: int, steps: int) -> None:
        if self.listens:
            self._on_step(step, steps)


def flat_picture(
    base: BaseUse, request: DrawRequest, loras: Sequence[StoredLora | LoraUse], file_format: PictureFormat
) -> bytes:
    """A picture file of the size asked for, in one colour that everything asked for decides."""
    colour = sha256_hex(msgspec.msgpack.encode((base, request, loras)))
    file = io.BytesIO()
    size = (request.width, request.height)
    Image.new("RGB", size, tuple(bytes.fromhex(colour[:6]))).save(file, file_format.value)
    return file.getvalue()


def after_use(loaded: Loaded, base: BaseUse, loras: Sequence[str], most: int) -> Loaded:
    """What a worker that keeps at most so many bases holds after a job with this base and these LoRAs."""
    held = {each.base: each.loras for each in loaded.bases}
    held[base] = tuple(dict.fromkeys((*held.pop(base, ()), *loras)))
    kept = [LoadedBase(*each) for each in held.items()][-most:]
    return Loaded(bases=tuple(kept), room=len(kept) < most)
