"""Inference workers as processes of this machine, one a device."""

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog
from msgspec.structs import replace

from maquette.core.backoff import back_off
from maquette.core.drawing import Compare, Compared, Draw, Drawn, LoraUse, Refused, ToWorker
from maquette.serving.base import (
    CompareJob,
    Comparison,
    DrawJob,
    JobRefused,
    OnStep,
    Pool,
    PoolSettings,
    PoolState,
    StoredLora,
    WorkerLost,
)
from maquette.serving.queue import JobQueue, Patience, Waiting
from maquette.serving.staging import Held, LoraCache
from maquette.serving.worker import Answer, Worker
from maquette.storage.base import Storage

T = TypeVar("T")

log = structlog.get_logger(__name__)

LORAS = "loras"
LOGS = "logs"
FIRST_PAUSE = 0.2
"""Seconds before a lost worker is replaced; twice as long with every further one since one last did a job."""
LONGEST_PAUSE = 30.0
DEATH_TAKES = 5.0
"""Seconds within which a killed process, which may hold much memory, should be gone."""
CLOSED = "the pool is closed"


class LocalPool(Pool):
    """Keeps a worker on each device; each is asked for one thing at a time.

    Files lie in `<root>/loras`, the workers' output in `<root>/logs`. A worker that dies, hangs, or says what is no
    answer is killed with its whole process group and replaced.
    """

    def __init__(
        self,
        root: Path,
        storage: Storage,
        *,
        devices: tuple[str, ...],
        settings: PoolSettings,
    ) -> None:
        """Take what it works with; nothing is touched before `start`.

        Args:
            root: directory of this pool alone.
            storage: where LoRAs and samples are fetched from.
            devices: torch device strings, a worker each.
            settings: for every worker.
        """
        self._root = root.resolve()
        self._storage = storage
        self._devices = devices
        self._settings = settings
        self._loras = LoraCache(self._root / LORAS, storage, settings.staged_bytes)
        self._queue = JobQueue(Patience(longest_wait=settings.longest_wait, slice=settings.overdue_slice))
        self._jobs: dict[int, _Job] = {}
        """Those that no worker has begun."""
        self._numbers = itertools.count(1)
        self._fetching: set[asyncio.Task[Any]] = set()
        self._opened = asyncio.Event()
        self._wanted = asyncio.Event()
        """Set by the first job: workers are slow to start and large, and a server that draws nothing goes without."""
        self._versions_known = asyncio.Event()
        """Set by the first worker that is ready, and at the end."""
        self._closed = False
        # All of these by the worker's number, its place among the devices.
        self._keepers: list[asyncio.Task[None]] = []
        self._processes: dict[int, Worker] = {}
        self._ready: set[int] = set()
        self._drawing: set[int] = set()
        self._failures = dict.fromkeys(range(len(devices)), 0)
        self._versions: dict[int, dict[str, str]] = {}
        """Of the one that is ready, or was last."""

    @property
    def workers(self) -> int:
        """See `Pool.workers`."""
        return len(self._devices)

    async def start(self) -> None:
        """See `Pool.start`.

        Raises:
            OSError: `root` can't be used.
        """
        await asyncio.to_thread(self._open)
        self._opened.set()
        if not self._closed:
            self._keepers = [
                asyncio.create_task(self._keep(number), name=f"inference worker {number}")
                for number in range(self.workers)
            ]

    async def draw(self, job: DrawJob, on_step: OnStep) -> bytes:
        """See `Pool.draw`."""
        held = self._loras.hold(job.loras)
        await self._bring(held)
        request = replace(job.request, loras=_uses(held, job.loras))
        message = Draw(number=next(self._numbers), base=job.base, request=request, format=job.format)
        answer, _ = await self._carry_out(_Job(message, held, on_step))
        assert isinstance(answer, Drawn)
        return answer.picture

    async def compare(self, job: CompareJob) -> Comparison:
        """See `Pool.compare`."""
        sample = await self._unless_closed(self._storage.get(job.sample_key))
        held = self._loras.hold((job.lora,))
        await self._bring(held)
        request = replace(job.request, loras=_uses(held, (job.lora,)))
        message = Compare(number=next(self._numbers), base=job.base, request=request, sample=sample)
        answer, versions = await self._carry_out(_Job(message, held, _unheard))
        assert isinstance(answer, Compared)
        return Comparison(from_sample=answer.from_sample, from_base=answer.from_base, versions=versions)

    async def versions(self) -> list[dict[str, str]]:
        """See `Pool.versions`."""
        self._wanted.set()
        await self._versions_known.wait()
        if self._closed:
            raise WorkerLost(CLOSED)
        known = list(self._versions.values())
        return [versions for place, versions in enumerate(known) if versions not in known[:place]]

    def state(self) -> PoolState:
        """See `Pool.state`."""
        return PoolState(
            workers=self.workers,
            ready=len(self._ready),
            drawing=len(self._drawing),
            waiting=len(self._fetching) + len(self._queue),
        )

    async def close(self) -> None:
        """See `Pool.close`."""
        self._closed = True
        self._versions_known.set()
        for task in (*self._fetching, *self._keepers):
            task.cancel()
        try:
            async with asyncio.timeout(DEATH_TAKES):
                await asyncio.gather(*self._keepers, return_exceptions=True)
                # Also one whose keeper was just ending it, and broke off.
                await asyncio.gather(*(process.end() for process in self._processes.values()))
        except TimeoutError:
            log.error("killed workers are not gone", pids=[process.pid for process in self._processes.values()])
        for job in self._jobs.values():
            job.fail(WorkerLost(CLOSED))
            job.held.release()
        self._jobs.clear()

    def _open(self) -> None:
        (self._root / LOGS).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._loras.open()

    async def _bring(self, held: Held) -> None:
        """Have a job's files fetched; where that fails they are let go."""

        async def fetch() -> None:
            await self._opened.wait()
            await held.fetch()

        try:
            await self._unless_closed(fetch())
        except BaseException:
            held.release()
            raise

    async def _unless_closed(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what a job needs before it can be begun.

        Raises:
            WorkerLost: the pool is closed, or was meanwhile.
        """
        task = asyncio.create_task(work)
        self._fetching.add(task)
        if self._closed:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            us = asyncio.current_task()
            if self._closed and us is not None and not us.cancelling():
                raise WorkerLost(CLOSED) from None
            raise
        finally:
            self._fetching.discard(task)

    async def _carry_out(self, job: "_Job") -> tuple[Answer, dict[str, str]]:
        """Let a job wait for a worker, and for what that answers; who takes it from the queue lets its files go."""
        if self._closed:
            job.held.release()
            raise WorkerLost(CLOSED)
        self._wanted.set()
        self._jobs[job.number] = job
        self._queue.put(job.number, job.message.base, job.held.paths)
        try:
            return await job.answer
        finally:
            if self._queue.withdraw(job.number):
                self._jobs.pop(job.number, None)
                job.held.release()

    async def _keep(self, number: int) -> None:
        """Keep a worker on this device: start it, give it jobs, replace it when it is lost."""
        await self._wanted.wait()
        while True:
            began = asyncio.get_running_loop().time()
            why = await self._use_one(number)
            if self._closed:
                return
            self._failures[number] += 1
            pause = back_off(self._failures[number], first=FIRST_PAUSE, longest=LONGEST_PAUSE)
            log.warning(
                "inference worker lost",
                device=self._devices[number],
                why=why,
                exit_code=self._processes[number].exit_code,
                lived=round(asyncio.get_running_loop().time() - began, 1),
                log=str(self._log(number)),
                pause=pause,
            )
            await asyncio.sleep(pause)

    async def _use_one(self, number: int) -> str:
        """Start a worker and give it jobs until it is lost; answers why, when it is gone."""
        worker = Worker(self._devices[number], self._log(number), self._settings)
        self._processes[number] = worker
        try:
            await worker.start()
            self._ready.add(number)
            self._versions[number] = worker.versions
            self._versions_known.set()
            log.info("inference worker ready", device=self._devices[number], pid=worker.pid)
            while True:
                await self._give(number, worker, await self._next(number, worker))
        except WorkerLost as lost:
            return str(lost)
        except Exception as error:
            # A mistake of ours; the device must not stay without a worker for it.
            log.exception("inference worker given up", device=self._devices[number])
            return repr(error)
        finally:
            self._ready.discard(number)
            await worker.end()

    async def _next(self, number: int, worker: Worker) -> Waiting:
        """Wait for a job for this worker.

        Raises:
            WorkerLost: the worker died meanwhile.
        """
        taking = asyncio.create_task(self._queue.take(number, worker.loaded))
        watching = asyncio.create_task(worker.watch())
        watching.add_done_callback(lambda _: taking.cancel())
        try:
            return await taking
        except asyncio.CancelledError:
            if watching.done() and not watching.cancelled():
                watching.result()
            raise
        finally:
            # Until it has ended nobody else may listen to the worker.
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _give(self, number: int, worker: Worker, waiting: Waiting) -> None:
        """Have a job carried out that this worker took.

        Raises:
            WorkerLost: the worker is of no further use; the job knows already.
        """
        job = self._jobs.pop(waiting.number)
        self._drawing.add(number)
        try:
            job.hear(0, job.message.request.steps)
            if job.answer.done():
                return
            answer = await worker.ask(job.message, job.hear)
        except WorkerLost as lost:
            job.fail(WorkerLost(str(lost)))
            raise
        except BaseException:
            job.fail(WorkerLost(CLOSED))
            raise
        finally:
            self._drawing.discard(number)
            job.held.release()
        job.end(answer, worker.versions)
        if isinstance(answer, Refused) and not answer.clean:
            raise WorkerLost(f"the worker is not clean after a request that it refused: {answer.message}")
        self._failures[number] = 0

    def _log(self, number: int) -> Path:
        return self._root / LOGS / f"{number}-{self._devices[number].replace(':', '-')}.log"


class _Job:
    """What a caller waits for, from when its files are here.

    Attributes:
        message: for the worker.
        held: the files it speaks of.
        answer: what the worker answers, and the versions of the libraries with which it did; cancelled with the caller.
    """

    def __init__(self, message: ToWorker, held: Held, on_step: OnStep) -> None:
        self.message = message
        self.held = held
        self.answer: asyncio.Future[tuple[Answer, dict[str, str]]] = asyncio.get_running_loop().create_future()
        self._on_step = on_step

    @property
    def number(self) -> int:
        """The message's."""
        return self.message.number

    def hear(self, step: int, steps: int) -> None:
        """Tell the caller of progress, if it is still there."""
        if self.answer.done():
            return
        try:
            self._on_step(step, steps)
        except Exception as error:
            self.answer.set_exception(error)

    def end(self, answer: Answer, versions: dict[str, str]) -> None:
        """Give the caller its answer, if it is still there."""
        if isinstance(answer, Refused):
            self.fail(JobRefused(answer.reason, answer.message))
        elif not self.answer.done():
            self.answer.set_result((answer, versions))

    def fail(self, error: JobRefused | WorkerLost) -> None:
        """Give the caller an error, if it is still there."""
        if not self.answer.done():
            self.answer.set_exception(error)


def _uses(held: Held, loras: Sequence[StoredLora]) -> tuple[LoraUse, ...]:
    return tuple(LoraUse(path=path, strength=lora.strength) for path, lora in zip(held.paths, loras, strict=True))


def _unheard(_step: int, _steps: int) -> None:
    """For jobs whose progress nobody asks for."""
