"""New models meet the parity gate."""

import asyncio
from functools import partial
from typing import Any

import structlog

from maquette.core.backoff import back_off
from maquette.core.drawing import BaseUse, Refusal, sample_request
from maquette.db.engine import Database
from maquette.db.move import Judgement, pass_model, reject_model
from maquette.server.loops.base import Loop
from maquette.server.loops.interruption import Interrupted, Interruptible
from maquette.server.models import gate
from maquette.server.models import service as models
from maquette.server.models.service import UnjudgedModel
from maquette.serving.base import CompareJob, Comparison, JobRefused, Pool, StoredLora, WorkerLost
from maquette.storage.base import ObjectMissing, StorageFailed

log: Any = structlog.get_logger()

AT_A_TIME = 8
ASK_WORKERS = "ask the workers what they are"
MOST_LOST_WORKERS = 5
"""Workers that a model may cost in a row before it is rejected: as many as a task may."""

FAULTS = frozenset({Refusal.UNMATCHED_LORA, Refusal.BROKEN_LORA, Refusal.NOT_FINITE})
"""What a worker says of the LoRA itself; anything else it says may pass."""


class DeployLoop(Loop):
    """Lets the pool replay the sample of each model that is not judged yet, and stores the gate's verdict.

    What comes to no verdict, since the storage is away or the base is, or the pool takes too long, waits and is tried
    again for as long as it takes: the model stays DEPLOYING, and its message says why. So does one over which a worker
    was lost, until it has cost a few in a row.

    Rejected models are judged again by workers of another kind than those that have rejected them. Which kind is here
    the pool tells; where there are rejected models it is asked also while there is nothing to draw.
    """

    def __init__(self, database: Database, pool: Pool, *, interval: float, timeout: float) -> None:
        """Take what it works with; `timeout` is for one comparison, in seconds, its wait for a worker included."""
        super().__init__(interval)
        self._database = database
        self._pool = pool
        self._timeout = timeout
        self._waits = Interruptible()
        self._workers: tuple[str, ...] = ()
        """The kinds of workers here (`worker_text`), as far as they have told."""

    async def turn(self) -> None:
        """Begin to judge what is due."""
        under_way = self.errands.under_way
        async with self._database.read() as conn:
            found = await models.to_judge(conn, self._workers, AT_A_TIME)
            ask = bool(self._workers) or await models.any_rejected(conn)
        if ask:
            # Also when it is known: a worker that is replaced may be another.
            self.errands.begin(ASK_WORKERS, self._ask_workers)
        for model in found:
            name = errand(model)
            if name not in under_way:
                self.errands.begin(name, partial(self._judge, model))

    async def stop(self) -> None:
        """Let go of what is being judged; nothing is lost by it."""
        self._waits.stop()
        await super().stop()

    async def _ask_workers(self) -> None:
        try:
            await self._waits.wait(ASK_WORKERS, self._learn_workers())
        except (Interrupted, WorkerLost):
            return

    async def _learn_workers(self) -> None:
        self._workers = tuple(models.worker_text(versions) for versions in await self._pool.versions())

    async def _judge(self, model: UnjudgedModel) -> None:
        if model.base_location is None:
            await self._postpone(model, "its base is not registered")
            return
        job = CompareJob(
            base=BaseUse(model.base_location, model.spec.base.sha256),
            request=sample_request(model.spec.sample),
            lora=StoredLora(key=model.object_key, sha256=model.sha256),
            sample_key=model.sample_key,
        )
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._waits.wait(errand(model), self._compare(job))
        except Interrupted:
            return
        except TimeoutError:
            await self._postpone(model, f"it was not compared within {self._timeout:g} s")
        except JobRefused as refusal:
            if refusal.reason in FAULTS:
                await self._reject(model, self._undrawn(model, refusal.message))
            else:
                await self._postpone(model, refusal.message)
        except ObjectMissing as error:
            # A storage that is not mounted, or another one by mistake, reads as if it were empty.
            await self._postpone(model, f"the storage does not have its files: {error}")
        except StorageFailed as error:
            log.warning("model.storage_away", model=model.name, error=str(error))
            await self._postpone(model, "the storage does not give out its files")
        except WorkerLost as error:
            await self._lose(model, str(error))
        else:
            await self._decide(model, found)

    async def _compare(self, job: CompareJob) -> Comparison:
        # First who they are: a verdict says it even where nothing comes to be drawn.
        await self._learn_workers()
        return await self._pool.compare(job)

    async def _decide(self, model: UnjudgedModel, found: Comparison) -> None:
        judgement = Judgement(
            judged_with=models.judged_with(models.worker_text(found.versions), model),
            message=gate.objection(found),
            from_sample=found.from_sample,
            from_base=found.from_base,
        )
        if judgement.message:
            await self._reject(model, judgement)
            return
        async with self._database.write() as conn:
            await pass_model(conn, model.tenant_id, model.id, judgement)
        log.info("model.serving", model=model.name, mean=found.from_sample.mean, largest=found.from_sample.largest)

    async def _reject(self, model: UnjudgedModel, judgement: Judgement) -> None:
        async with self._database.write() as conn:
            await reject_model(conn, model.tenant_id, model.id, judgement)
        log.warning("model.rejected", model=model.name, why=judgement.message)

    async def _lose(self, model: UnjudgedModel, why: str) -> None:
        lost = model.lost_workers + 1
        if lost < MOST_LOST_WORKERS:
            await self._postpone(model, f"the worker that drew with it was lost: {why}", lost_workers=lost)
            return
        message = f"{lost} workers in a row were lost while they drew with it, the latest one with: {why}"
        await self._reject(model, self._undrawn(model, message))

    def _undrawn(self, model: UnjudgedModel, message: str) -> Judgement:
        """A verdict without a picture; where there are several kinds of workers, nobody says which had it."""
        return Judgement(judged_with=models.judged_with(self._workers[0], model), message=message)

    async def _postpone(self, model: UnjudgedModel, why: str, *, lost_workers: int = 0) -> None:
        log.warning("model.not_judged", model=model.name, why=why, tries=model.attempts + 1)
        async with self._database.write() as conn:
            await models.postpone(conn, model, back_off(model.attempts + 1), why, lost_workers=lost_workers)


def errand(model: UnjudgedModel) -> str:
    """What judging a model is called."""
    return f"judge {model.id}"
