"""The loops that see to attempts, models and image tasks, as one thing to start and stop."""

import asyncio
from typing import Any

import structlog

from maquette.core.ids import new_id
from maquette.db.engine import Database
from maquette.executors.base import Executor
from maquette.server.loops.base import Loop
from maquette.server.loops.deliver import DeliverLoop
from maquette.server.loops.deploy import DeployLoop
from maquette.server.loops.dispatch import DispatchLoop
from maquette.server.loops.draw import DrawLoop
from maquette.server.loops.image_sweep import ImageSweep, StraySweep
from maquette.server.loops.lapse import LapseLoop
from maquette.server.loops.lease import Lease
from maquette.server.loops.reap import ReapLoop
from maquette.server.loops.sweep import UploadSweep
from maquette.server.loops.watch import WatchLoop
from maquette.server.settings import Settings
from maquette.server.signing import open_signer
from maquette.server.webhooks.outbound import Outbound
from maquette.serving.base import Pool
from maquette.storage.base import Storage

log: Any = structlog.get_logger()

STOP_SECONDS = 10.0
ORPHAN_MARGIN = 60.0
"""Seconds on top of the time after which an abandoned trainer ends by itself, for its last step and checkpoint."""


class Supervision:
    """Dispatching, watching and reaping the attempts of one executor; judging models and drawing by one pool; telling
    webhooks.

    Attributes:
        lease: under which it supervises.
    """

    def __init__(
        self, settings: Settings, database: Database, storage: Storage, executor: Executor, pool: Pool
    ) -> None:
        self._executor = executor
        self._database = database
        self.lease = Lease(database, supervisor=new_id())
        dispatch = DispatchLoop(
            database,
            executor,
            self.lease,
            interval=settings.loop_interval,
            checkpoint_every=settings.checkpoint_every,
            keep_every=settings.keep_checkpoint_every,
            task_deadline=settings.task_deadline,
        )
        watch = WatchLoop(
            database,
            storage,
            executor,
            self.lease,
            interval=settings.loop_interval,
            keep_every=settings.keep_checkpoint_every,
            stop_grace=settings.stop_grace,
            task_deadline=settings.task_deadline,
            on_device_freed=dispatch.wake,
        )
        reap = ReapLoop(
            database,
            executor,
            self.lease,
            UploadSweep(database, storage, settings.keep_unused_uploads),
            ImageSweep(database, storage, settings.keep_images + settings.image_url_ttl),
            StraySweep(database, storage),
            interval=settings.reap_interval,
            orphan_after=settings.abandon_after + ORPHAN_MARGIN,
            idempotency_ttl=settings.idempotency_ttl,
        )
        lapse = LapseLoop(self.lease, (dispatch, watch), interval=settings.loop_interval)
        self._draw = DrawLoop(
            database,
            storage,
            pool,
            supervisor=self.lease.supervisor,
            interval=settings.loop_interval,
            deadline=settings.image_deadline,
            model_wait=settings.model_wait,
        )
        deploy = DeployLoop(database, pool, interval=settings.loop_interval, timeout=settings.comparison_timeout)
        deliver = DeliverLoop(
            database,
            Outbound(settings.outbound_reach, settings.webhook_timeout),
            open_signer(settings),
            interval=settings.loop_interval,
            public_url=settings.public_url,
            url_ttl=settings.image_url_ttl,
            sandbox=settings.sandbox,
        )
        self._loops: tuple[Loop, ...] = (dispatch, watch, reap, lapse, deploy, self._draw, deliver)

    async def start(self) -> None:
        """Become the supervisor of this node's attempts, before anything new is dispatched; then start turning.

        Only one server may do so at a time: the caller holds the data directory's lock.
        """
        adopted = await self.lease.take_over(self._executor.node_id)
        # A database in a file has no other server, so that what was being drawn is certainly drawn no more.
        given_back = await self._draw.take_over() if self._database.file is not None else 0
        log.info("supervision.started", node=self._executor.node_id, adopted=adopted, given_back=given_back)
        for loop in self._loops:
            loop.start()

    async def stop(self) -> None:
        """Stop turning; trainers run on, and the next server adopts them."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(loop.stop() for loop in self._loops))
        except TimeoutError:
            log.warning("supervision.stopped_amid_a_turn", after_seconds=STOP_SECONDS)
