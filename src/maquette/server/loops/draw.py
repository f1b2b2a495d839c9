"""Image tasks meet the serving pool."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any

import structlog
from msgspec import Struct
from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.backoff import back_off
from maquette.core.lifecycle import Reason, Verdict
from maquette.core.specs import BaseRef
from maquette.db.engine import Database
from maquette.server.images import copies, jobs, queue
from maquette.server.images.copies import NotCopied
from maquette.server.images.jobs import Places
from maquette.server.images.queue import Attempt, ClaimedImageTask, ImageProgress, QueuedImageTask, StoredImage
from maquette.server.loops.base import Loop
from maquette.server.loops.interruption import Interrupted, Interruptible
from maquette.server.models import service as models
from maquette.serving.base import DrawJob, JobRefused, Pool, WorkerLost
from maquette.storage.base import ObjectMissing, Storage, StorageFailed

log: Any = structlog.get_logger()

LEASE_SECONDS = 30.0
ROWS_A_TURN = 100
JOBS_A_WORKER = 8
"""Tasks given to the pool at a time for each of its workers: among several it can go by what is loaded."""
LONGEST_PAUSE = 10.0
"""Seconds at most before the next try to store how an attempt has ended."""
UNBEGUN_PAUSE = 1.0
"""Seconds before a task is given to the pool again that it gave up before any worker had begun it."""


End = Callable[[AsyncConnection], Awaitable[object]]
"""Stores how an attempt has ended."""


class Hindrance(Struct, frozen=True):
    """Why a waiting task will never be drawn."""

    reason: Reason
    message: str


class Wait(Struct, frozen=True):
    """A waiting task's LoRA is not judged yet."""

    model_id: str


class OriginalMissing(Exception):
    """The picture to start from is gone."""


FAILURES: tuple[tuple[type[Exception], Reason], ...] = (
    (WorkerLost, Reason.WORKER_LOST),
    (OriginalMissing, Reason.ORIGINAL_MISSING),
    (ObjectMissing, Reason.MODEL_MISSING),
    (NotCopied, Reason.NOT_COPIED),
    (StorageFailed, Reason.STORAGE_AWAY),
)
"""Why an attempt fails that met such an error; any other is `INTERNAL`."""
LOGGED = frozenset({Reason.STORAGE_AWAY, Reason.INTERNAL})
"""What is said in these is for the operator; owners read the reason alone."""


class Drawing:
    """An attempt of this server, and how far it is."""

    def __init__(self, task: ClaimedImageTask) -> None:
        self.task = task
        self._step = 0
        self._begun_at: float | None = None

    @property
    def name(self) -> str:
        """What its errand and its waits are called: another attempt at the same task is another thing."""
        return f"draw {self.task.id}/{self.task.fence}"

    @property
    def begun(self) -> bool:
        """Whether a worker has begun it."""
        return self._begun_at is not None

    def hear(self, step: int) -> None:
        """A worker has done so many of its steps."""
        self._begun_at = monotonic() if self._begun_at is None else self._begun_at
        self._step = step

    def progress(self) -> ImageProgress:
        """How far it is now."""
        return ImageProgress(self.task, self._step, None if self._begun_at is None else monotonic() - self._begun_at)


class DrawLoop(Loop):
    """Claims waiting image tasks, lets the pool draw them, and stores what it drew before their row says so.

    A server that stops gives back what it has claimed. One that is killed leaves it claimed: the next one gives it
    back, at once where it is the only one that there is, else when the lease has lapsed. An attempt that is this
    server's no more, since its lease has lapsed or its task is past its deadline, is taken back from the pool.

    How an attempt has ended is kept, and its lease renewed, until the database has taken it: what was drawn once is
    not drawn again because the database was away.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        pool: Pool,
        *,
        supervisor: str,
        interval: float,
        deadline: float,
        model_wait: float,
    ) -> None:
        """Take what it works with.

        Args:
            supervisor: this server process.
            deadline: seconds from its creation after which a task fails, also one that is being drawn.
            model_wait: seconds that a task waits for a LoRA to be judged.
        """
        super().__init__(interval)
        self._database = database
        self._storage = storage
        self._pool = pool
        self._supervisor = supervisor
        self._deadline = deadline
        self._model_wait = model_wait
        self._waits = Interruptible()
        self._under_way: dict[Attempt, Drawing] = {}
        """What this server has given to the pool."""

    async def take_over(self) -> int:
        """Give back what earlier servers were drawing; the caller knows that there is no other. Answers how many."""
        right = queue.supervised_by_others(self._supervisor)
        count = 0
        while given_back := await self._give_back(right):
            count += given_back
        return count

    async def turn(self) -> None:
        """One round."""
        if self._under_way:
            async with self._database.write() as conn:
                await queue.advance(conn, [drawing.progress() for drawing in self._under_way.values()], LEASE_SECONDS)
        async with self._database.read() as conn:
            lapsed = queue.orphaned(conn, LEASE_SECONDS)
        await self._give_back(lapsed)
        await self._end_overdue()
        await self._take_back()
        room = self._pool.workers * JOBS_A_WORKER - len(self._under_way)
        if room > 0:
            await self._begin(room)

    async def stop(self) -> None:
        """Take back what is being drawn, for the next server to draw."""
        self._waits.stop()
        await super().stop()

    async def _give_back(self, right: ColumnElement[bool]) -> int:
        async with self._database.read() as conn:
            found = await queue.in_progress(conn, right, ROWS_A_TURN)
        for task in found:
            async with self._database.write() as conn:
                await queue.give_back(conn, task, right)
        return len(found)

    async def _end_overdue(self) -> None:
        words = f"The limit is {self._deadline:.0f} s from its creation."
        async with self._database.read() as conn:
            right = queue.older_than(conn, self._deadline)
            waiting = await queue.overdue(conn, self._deadline, ROWS_A_TURN)
            drawn = await queue.in_progress(conn, right, ROWS_A_TURN)
        for task in waiting:
            async with self._database.write() as conn:
                await queue.refuse(conn, task, Reason.TIMED_OUT, words)
        for task in drawn:
            async with self._database.write() as conn:
                await queue.fail(conn, task, Reason.TIMED_OUT, words, right=right)

    async def _take_back(self) -> None:
        """Let the pool go on with nothing that is not this server's any more."""
        drawings = list(self._under_way.values())
        if not drawings:
            return
        async with self._database.read() as conn:
            held = await queue.held(conn, self._supervisor)
        for drawing in drawings:
            if drawing.task.attempt not in held:
                self._waits.let_go(drawing.name)

    async def _begin(self, room: int) -> None:
        async with self._database.read() as conn:
            due = await queue.due(conn, room, model_wait=self._model_wait)
            found = [(task, await self._look_at(conn, task)) for task in due]
        begun = 0
        for task, prospect in found:
            if self._stopping:
                # What is taken back now would be claimed again.
                return
            match prospect:
                case Places():
                    await self._claim(task, prospect)
                    begun += 1
                case Wait():
                    async with self._database.write() as conn:
                        await queue.wait_for(conn, task, prospect.model_id)
                case Hindrance():
                    async with self._database.write() as conn:
                        await queue.refuse(conn, task, prospect.reason, prospect.message)
        if begun < len(found) == room:
            # What could not be begun makes room for those behind it.
            self.wake()

    async def _claim(self, task: QueuedImageTask, places: Places) -> None:
        async with self._database.write() as conn:
            claimed = await queue.claim(conn, task, supervisor=self._supervisor, lease=LEASE_SECONDS)
        if claimed:
            drawing = self._under_way[claimed.attempt] = Drawing(claimed)
            self.errands.begin(drawing.name, partial(self._draw, task, drawing, places))

    async def _look_at(self, conn: AsyncConnection, task: QueuedImageTask) -> Places | Hindrance | Wait:
        """Where all lies that a task is drawn with, or what keeps it from being drawn."""
        for pinned in task.spec.loras:
            lora = await models.find_lora(conn, task.tenant_id, pinned.name)
            if lora is None or lora.id != pinned.model_id:
                return Hindrance(Reason.MODEL_MISSING, pinned.name)
            if lora.verdict is Verdict.REJECTED:
                return Hindrance(Reason.MODEL_REJECTED, f"{lora.name}: {lora.verdict_message}.")
            if lora.verdict is Verdict.PENDING:
                if task.age <= self._model_wait:
                    return Wait(lora.id)
                why = f": {lora.verdict_message}" if lora.verdict_message else ""
                return Hindrance(Reason.MODEL_NOT_READY, f"{lora.name} is still being deployed{why}.")
        places = await jobs.locate(conn, task.spec)
        return Hindrance(Reason.BASE_MISSING, places.name) if isinstance(places, BaseRef) else places

    async def _draw(self, task: QueuedImageTask, drawing: Drawing, places: Places) -> None:
        try:
            await self._store(drawing, await self._attempt(task, drawing, places))
        finally:
            del self._under_way[drawing.task.attempt]
            self.wake()

    async def _attempt(self, task: QueuedImageTask, drawing: Drawing, places: Places) -> End:
        """Draw a task's pictures; answers how that has ended."""
        try:
            images = await self._pictures(task, drawing, places)
        except Exception as error:
            return _broken_off(drawing, error)
        return lambda conn: queue.succeed(conn, drawing.task, images)

    async def _pictures(self, task: QueuedImageTask, drawing: Drawing, places: Places) -> list[StoredImage]:
        """Draw and store each picture of a task, and copy it where the request wants it too."""
        original = await self._original(task.original_key) if task.original_key else None
        stored: list[StoredImage] = []
        for index, job in enumerate(jobs.jobs(task.spec, places, original)):
            work = self._pool.draw(job, partial(_hear, drawing, index, job))
            picture = await self._waits.wait(drawing.name, work)
            image = StoredImage(queue.picture_key(drawing.task, index, job.format), job.format)
            await self._storage.put(image.key, picture)
            if task.spec.copy_to:
                await copies.copy(task.spec.copy_to, task.id, index, image.format, picture)
            stored.append(image)
        return stored

    async def _original(self, key: str) -> bytes:
        try:
            return await self._storage.get(key)
        except ObjectMissing:
            raise OriginalMissing from None

    async def _store(self, drawing: Drawing, end: End) -> None:
        """Store how an attempt has ended, as often as it takes while the attempt is this server's."""
        tries = 0
        while True:
            error = await self._try_to_store(drawing, end)
            if error is None:
                return
            tries += 1
            log.error("image.end_not_stored", task=drawing.task.id, tries=tries, error=str(error))
            try:
                await self._waits.wait(drawing.name, asyncio.sleep(back_off(tries, longest=LONGEST_PAUSE)))
            except Interrupted:
                # The server stops, or the attempt was another's already: once more, for the former.
                await self._try_to_store(drawing, end)
                return

    async def _try_to_store(self, drawing: Drawing, end: End) -> Exception | None:
        """One transaction; answers what went wrong. When a worker began may be news, and is stored first."""
        try:
            async with self._database.write() as conn:
                await queue.advance(conn, [drawing.progress()], LEASE_SECONDS)
                await end(conn)
        except Exception as error:
            return error
        return None


def _broken_off(drawing: Drawing, error: Exception) -> End:
    """How an attempt ends that met an error."""
    if isinstance(error, Interrupted):
        return lambda conn: queue.release(conn, drawing.task)
    if isinstance(error, WorkerLost) and not drawing.begun:
        return lambda conn: queue.release(conn, drawing.task, pause=UNBEGUN_PAUSE)
    if isinstance(error, JobRefused):
        refused = Reason(error.reason.value)
        return lambda conn: queue.fail(conn, drawing.task, refused, error.message)
    reason = next((reason for kind, reason in FAILURES if isinstance(error, kind)), Reason.INTERNAL)
    if reason not in LOGGED:
        return lambda conn: queue.fail(conn, drawing.task, reason, str(error))
    defect = error if reason is Reason.INTERNAL else None
    log.error("image.attempt_failed", task=drawing.task.id, reason=reason, error=str(error), exc_info=defect)
    return lambda conn: queue.fail(conn, drawing.task, reason)


def _hear(drawing: Drawing, index: int, job: DrawJob, step: int, steps: int) -> None:
    """Remember a step; a second pass counts as its share of the steps that were promised."""
    drawing.hear(index * job.request.steps + job.request.steps * step // max(steps, 1))
