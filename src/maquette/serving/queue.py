"""Which waiting job which free worker takes."""

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from maquette.core.drawing import BaseUse, Loaded


class Waiting(Struct, frozen=True, kw_only=True):
    """A job that waits for a worker.

    Attributes:
        number: its own; later ones are higher, one by one.
        base: the one it needs.
        loras: paths of the LoRA files it needs.
        since: when it began to wait, seconds of the monotonic clock.
    """

    number: int
    base: BaseUse
    loras: tuple[str, ...]
    since: float

    @property
    def place(self) -> tuple[float, int]:
        """Its place in the order of arrival."""
        return self.since, self.number


class Patience(Struct, frozen=True, kw_only=True):
    """How far jobs give way to others that suit what a worker has loaded.

    Attributes:
        longest_wait: seconds after which a job is overdue.
        slice: once a job is overdue, fewer than so many younger ones may begin before it.
    """

    longest_wait: float
    slice: int


def pick(
    waiting: Collection[Waiting], free: Mapping[int, Loaded], *, now: float, patience: Patience
) -> tuple[Waiting, int] | None:
    """The job to begin next and the free worker that suits it best, or None where there is no job or no worker.

    It is the job nearest to what a worker has loaded, of equally near ones the oldest. Once the oldest of all is
    overdue, only its slice is looked at: jobs are cut into slices by their numbers, and those of one may pass each
    other still. So a backlog in which all are overdue does not load a base or a LoRA anew for each.

    Args:
        waiting: the jobs.
        free: what each free worker has loaded.
        now: seconds of the monotonic clock.
        patience: see there.
    """
    if not waiting or not free:
        return None
    oldest = min(waiting, key=lambda job: job.place)
    eligible = waiting
    if now - oldest.since > patience.longest_wait:
        eligible = [job for job in waiting if job.number // patience.slice == oldest.number // patience.slice]
    return min(
        itertools.product(eligible, free),
        key=lambda pair: (distance(pair[0], free[pair[1]]), pair[0].place, pair[1]),
    )


def distance(job: Waiting, loaded: Loaded) -> tuple[int, int]:
    """How much a worker has to load for a job: the base above all, and where it has that the LoRAs it lacks.

    A worker with room for the base is nearer than one that would have to let another go.
    """
    for held in loaded.bases:
        if held.base == job.base:
            return 0, len(set(job.loras) - set(held.loras))
    return (1 if loaded.room else 2), 0


class JobQueue:
    """Jobs that wait for workers and workers that wait for jobs; never both where they could be together."""

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the bounds on how far a job is passed over."""
        self._patience = patience
        self._clock = clock
        self._waiting: dict[int, Waiting] = {}
        self._free: dict[int, Loaded] = {}
        self._turns: dict[int, asyncio.Future[Waiting]] = {}

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def put(self, number: int, base: BaseUse, loras: tuple[str, ...]) -> None:
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
        while chosen := pick(self._waiting.values(), self._free, now=self._clock(), patience=self._patience):
            job, worker = chosen
            turn = self._turns[worker]
            self._leave(worker)
            # A worker that has just given up waiting is free no more.
            if not turn.done():
                del self._waiting[job.number]
                turn.set_result(job)
