"""Image tasks meet the serving pool."""

from functools import partial
from typing import Any

import structlog
from msgspec import Struct
from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import Reason, Verdict
from maquette.core.specs import BaseRef
from maquette.db.engine import Database
from maquette.server.images import jobs, queue
from maquette.server.images.jobs import Places
from maquette.server.images.queue import ClaimedImageTask, ImageProgress, QueuedImageTask, StoredImage
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
LOOK_AGAIN = 1.0
"""Seconds before a task that waits for its LoRA is looked at again."""


class Hindrance(Struct, frozen=True):
    """Why a waiting task will never be drawn."""

    reason: Reason
    message: str


class Wait(Struct, frozen=True):
    """A waiting task's LoRA is not served yet."""


class DrawLoop(Loop):
    """Claims waiting image tasks, lets the pool draw them, and stores what it drew before their row says so.

    A server that is killed leaves tasks claimed: the next one gives them back, at once where it is the only one that
    there is, else when their lease has lapsed.
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
            deadline: seconds from its creation after which a task that still waits fails.
            model_wait: seconds that a task waits for a LoRA to be served.
        """
        super().__init__(interval)
        self._database = database
        self._storage = storage
        self._pool = pool
        self._supervisor = supervisor
        self._deadline = deadline
        self._model_wait = model_wait
        self._waits = Interruptible()
        self._under_way: dict[str, ImageProgress] = {}
        """How far the tasks are that this server draws, by their id."""

    async def take_over(self) -> int:
        """Give back what earlier servers were drawing; the caller knows that there is no other. Answers how many."""
        return await self._give_back(queue.supervised_by_others(self._supervisor))

    async def turn(self) -> None:
        """One round."""
        if self._under_way:
            async with self._database.write() as conn:
                await queue.advance(conn, list(self._under_way.values()), LEASE_SECONDS)
        async with self._database.read() as conn:
            lapsed = queue.orphaned(conn, LEASE_SECONDS)
        await self._give_back(lapsed)
        await self._end_overdue()
        room = self._pool.workers * JOBS_A_WORKER - len(self._under_way)
        if room > 0:
            await self._begin(room)

    async def stop(self) -> None:
        """Let go of what is being drawn; the next server gives it back."""
        self._waits.stop()
        await super().stop()

    async def _give_back(self, right: ColumnElement[bool]) -> int:
        async with self._database.read() as conn:
            found = await queue.in_progress(conn, right, ROWS_A_TURN)
        for task in found:
            async with self._database.write() as conn:
                await queue.fail(conn, task, Reason.WORKER_LOST, "Its server was lost.", right=right)
        return len(found)

    async def _end_overdue(self) -> None:
        async with self._database.read() as conn:
            overdue = await queue.overdue(conn, self._deadline, ROWS_A_TURN)
        for task in overdue:
            async with self._database.write() as conn:
                await queue.refuse(conn, task, Reason.TIMED_OUT)

    async def _begin(self, room: int) -> None:
        async with self._database.read() as conn:
            found = [(task, await self._look_at(conn, task)) for task in await queue.due(conn, room)]
        for task, prospect in found:
            async with self._database.write() as conn:
                match prospect:
                    case Wait():
                        await queue.postpone(conn, task, LOOK_AGAIN)
                    case Hindrance():
                        await queue.refuse(conn, task, prospect.reason, prospect.message)
                    case Places():
                        claimed = await queue.claim(conn, task, supervisor=self._supervisor, lease=LEASE_SECONDS)
                        if claimed:
                            self._under_way[task.id] = ImageProgress(claimed, 0)
            if task.id in self._under_way and isinstance(prospect, Places):
                self.errands.begin(f"draw {task.id}", partial(self._draw, task, prospect))

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
                    return Wait()
                return Hindrance(Reason.MODEL_NOT_READY, f"{lora.name} is still being deployed.")
        places = await jobs.locate(conn, task.spec)
        return Hindrance(Reason.BASE_MISSING, places.name) if isinstance(places, BaseRef) else places

    async def _draw(self, task: QueuedImageTask, places: Places) -> None:
        claimed = self._under_way[task.id].task
        try:
            images = await self._pictures(task, claimed, places)
        except Interrupted:
            return
        except JobRefused as refusal:
            await self._fail(claimed, Reason(refusal.reason.value), refusal.message)
        except WorkerLost as error:
            await self._fail(claimed, Reason.WORKER_LOST, str(error))
        except ObjectMissing as error:
            await self._fail(claimed, Reason.MODEL_MISSING, str(error))
        except StorageFailed as error:
            await self._fail(claimed, Reason.STORAGE_AWAY, "")
            log.warning("image.storage_away", task=task.id, error=str(error))
        else:
            async with self._database.write() as conn:
                await queue.succeed(conn, claimed, images)
        finally:
            del self._under_way[task.id]
            self.wake()

    async def _pictures(self, task: QueuedImageTask, claimed: ClaimedImageTask, places: Places) -> list[StoredImage]:
        """Draw and store each picture of a task."""
        original = await self._storage.get(task.original_key) if task.original_key else None
        stored: list[StoredImage] = []
        for index, job in enumerate(jobs.jobs(task.spec, places, original)):
            picture = await self._waits.wait(self._pool.draw(job, partial(self._hear, claimed, index, job)))
            image = StoredImage(queue.picture_key(claimed, index, job.format), job.format)
            await self._storage.put(image.key, picture)
            stored.append(image)
        return stored

    def _hear(self, task: ClaimedImageTask, index: int, job: DrawJob, step: int, steps: int) -> None:
        """Remember a step; a second pass counts as its share of the steps that were promised."""
        done = index * job.request.steps + job.request.steps * step // max(steps, 1)
        self._under_way[task.id] = ImageProgress(task, done)

    async def _fail(self, task: ClaimedImageTask, reason: Reason, message: str) -> None:
        async with self._database.write() as conn:
            await queue.fail(conn, task, reason, message)
