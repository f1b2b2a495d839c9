"""Ends of image tasks reach their webhooks."""

from functools import partial
from typing import Any

import msgspec
import structlog

from maquette.core.backoff import back_off
from maquette.core.errors import TaskNotFound
from maquette.core.rehearsal import Breakdown, asked_for
from maquette.db.engine import Database
from maquette.server.images import service as images
from maquette.server.loops.base import Loop
from maquette.server.signing import Signer
from maquette.server.webhooks import queue
from maquette.server.webhooks.lookups import Place
from maquette.server.webhooks.outbound import Outbound, OutboundFailed, OutboundRefused
from maquette.server.webhooks.queue import Delivery

log: Any = structlog.get_logger()

AT_A_TIME = 32
ATTEMPTS = 6
"""One, and five more as published."""
SLOW_WEBHOOK = 15.0
"""Seconds by which a call comes late where a sandbox was asked for that; it stands for one that got no answer."""
MARGIN = 10.0
"""Seconds beyond the longest call after which another server may try what this one has begun."""


class DeliverLoop(Loop):
    """Tells each webhook once that its task has ended, up to five times more where it does not answer with 2xx."""

    def __init__(
        self,
        database: Database,
        outbound: Outbound,
        signer: Signer,
        *,
        interval: float,
        public_url: str,
        url_ttl: int,
        sandbox: bool = False,
    ) -> None:
        """Take what it works with; `public_url` and `url_ttl` are for the pictures' addresses.

        In a sandbox a webhook is told late where the prompt asks for that.
        """
        super().__init__(interval)
        self._database = database
        self._outbound = outbound
        self._signer = signer
        self._public_url = public_url
        self._url_ttl = url_ttl
        self._sandbox = sandbox

    async def turn(self) -> None:
        """Begin what is due."""
        under_way = self.errands.under_way
        async with self._database.read() as conn:
            due = await queue.due(conn, AT_A_TIME)
        for delivery in due:
            name = f"tell {delivery.image_task_id}"
            if name not in under_way:
                self.errands.begin(name, partial(self._deliver, delivery))

    async def stop(self) -> None:
        """Let the calls under way end; each is bounded."""
        try:
            await super().stop()
        finally:
            self._outbound.close()

    async def _deliver(self, due: Delivery) -> None:
        if due.attempts >= ATTEMPTS:
            await self._settle(due, "the server was lost in the last attempt", again=False)
            return
        place = await self._outbound.place(due.tenant_id)
        if place is None:
            # Nothing was begun, so no attempt is counted: it is due as before.
            return
        with place:
            if not self._stopping:
                await self._attempt(due, place)

    async def _attempt(self, due: Delivery, place: Place) -> None:
        async with self._database.write() as conn:
            delivery = await queue.claim(conn, due, self._outbound.timeout + MARGIN)
        if delivery is None:
            return
        try:
            if self._sandbox and delivery.attempts == 1 and await self._is_to_be_slow(delivery):
                async with self._database.write() as conn:
                    await queue.undelivered(conn, delivery, "put off, as the prompt asks", again_in=SLOW_WEBHOOK)
                return
            status = await self._outbound.post(place, delivery.url, await self._event(delivery))
        except (OutboundRefused, TaskNotFound) as error:
            await self._settle(delivery, str(error), again=False)
        except OutboundFailed as error:
            await self._settle(delivery, str(error), again=True)
        else:
            await self._settle(delivery, "" if 200 <= status < 300 else f"answered {status}", again=True)

    async def _is_to_be_slow(self, delivery: Delivery) -> bool:
        async with self._database.read() as conn:
            prompt = await images.prompt(conn, delivery.tenant_id, delivery.image_task_id)
        return asked_for(prompt) == Breakdown.SLOW_WEBHOOK

    async def _event(self, delivery: Delivery) -> bytes:
        async with self._database.read() as conn:
            event = await images.event(
                conn,
                delivery.tenant_id,
                delivery.image_task_id,
                self._signer,
                public_url=self._public_url,
                ttl=self._url_ttl,
            )
        return msgspec.json.encode(event)

    async def _settle(self, delivery: Delivery, problem: str, *, again: bool) -> None:
        """Store how a call went; `problem` is "" where it went well."""
        pause = back_off(delivery.attempts) if again and delivery.attempts < ATTEMPTS else None
        async with self._database.write() as conn:
            if not problem:
                await queue.delivered(conn, delivery)
                return
            await queue.undelivered(conn, delivery, problem, again_in=pause)
        log.warning("webhook.failed", task=delivery.image_task_id, attempt=delivery.attempts, why=problem)
