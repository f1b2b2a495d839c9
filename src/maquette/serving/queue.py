"""Which waiting job which free worker takes."""

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from maquette.core.drawing import Loaded


class Waiting(Struct, frozen=True, kw_only=True):
    """A job that waits for a worker.

    Attributes:
        number: its own; later ones are higher.
        base: folder of the base it needs.
        loras: paths of the LoRA files it needs.
        since: when it began to wait, seconds of the monotonic clock.
    """

    number: int
    base: str
    loras: tuple[str, ...]
    since: float

    @property
    def place(self) -> tuple[float, int]:
        """Its place in the order of arrival."""
        return self.since, self.number


def pick(
    waiting: Collection[Waiting], free: Mapping[int, Loaded], *, now: float, longest_wait: float
) -> tuple[Waiting, int] | None:
    """The job to begin next and the free worker that suits it best, or None where there is no job or no worker.

    It is the job nearest to what a worker has loaded, of equally near ones the oldest. Once the oldest of all has
    waited longer than `longest_wait`, it is that one: a job is passed over for so long at most, and after that waits
    for older ones alone.

    Args:
        waiting: the jobs.
        free: what each free worker has loaded.
        now, longest_wait: seconds of the monotonic clock.
    """
    if not waiting or not free:
        return None
    oldest = min(waiting, key=lambda job: job.place)
    eligible = (oldest,) if now - oldest.since > longest_wait else waiting
    return min(
        itertools.product(eligible, free),
        key=lambda pair: (distance(pair[0], free[pair[1]]), pair[0].place, pair[1]),
    )


def distance(job: Waiting, loaded: Loaded) -> tuple[int, int]:
    """How much a worker has to load for a job: the base above all, and with the right base the LoRAs it lacks.

    A worker without a base is nearer than one that would have to let another go.
    """
    if job.base != loaded.base:
        return (2 if loaded.base else 1), 0
    return 0, len(set(job.loras) - set(loaded.loras))


class JobQueue:
    """Jobs that wait for workers and workers that wait for jobs; never both where they could be together."""

    def __init__(self, longest_wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the bound, in seconds, on how long a job is passed over."""
        self._longest_wait = longest_wait
        self._clock = clock
        self._waiting: dict[int, Waiting] = {}
        self._free: dict[int, Loaded] = {}
        self._turns: dict[int, asyncio.Future[Waiting]] = {}

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def put(self, number: int, base: str, loras: tuple[str, ...]) -> None:
        """Let a job wait from now on."""
        self._enter(Waiting(number=number, base=base, loras=loras, since=self._clock()))

    def withdraw(self, number: int) -> bool:
        """Take a job back; False where it does not wait (any more)."""
        return self._waiting.pop(number, None) is not None

    async def take(self, worker: int, loaded: Loaded) -> Waiting:
        """Wait for a job as the free worker number `worker`; who is cancelled has taken none."""
        turn: asyncio.Future[Waiting] = asyncio.get_running_loop().create_future()
        self._free[worker] = loaded
        self._turns[worker] = turn
        self._match()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._enter(turn.result())
            raise
        finally:
            if self._turns.get(worker) is turn:
                self._leave(worker)

    def _enter(self, job: Waiting) -> None:
        self._waiting[job.number] = job
        self._match()

    def _leave(self, worker: int) -> None:
        del self._free[worker], self._turns[worker]

    def _match(self) -> None:
        while chosen := pick(self._waiting.values(), self._free, now=self._clock(), longest_wait=self._longest_wait):
            job, worker = chosen
            turn = self._turns[worker]
            self._leave(worker)
            # A worker that has just given up waiting is free no more.
            if not turn.done():
                del self._waiting[job.number]
                turn.set_result(job)
