"""Webhooks are told over real connections, and nobody else is."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from maquette.core.lifecycle import ImageStatus
from maquette.db.tables import webhook_deliveries
from maquette.server.webhooks.outbound import Outbound, OutboundFailed, OutboundRefused, read_networks
from maquette.testing.factories import make_image_task
from maquette.testing.loops import PATIENCE, SETTINGS, Service

LOOPBACK = "127.0.0.0/8"
TELLING = replace(SETTINGS, outbound_allow=LOOPBACK, webhook_timeout=1.0, signing_secret="s" * 32)


class Receiver:
    """An HTTP server that answers with the statuses it is given, then with 200; 0 is no answer at all."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[str] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
        )
        self.heard.append((head.split(" ")[1], json.loads(await reader.readexactly(length))))
        self.headers.append(head)
        status = self.statuses.pop(0) if self.statuses else 200
        if status:
            location = f"Location: http://127.0.0.1:{self.port}/elsewhere\r\n" if status == 302 else ""
            writer.write(f"HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        else:
            await reader.read()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


async def end_one(service: Service, url: str, status: ImageStatus = ImageStatus.SUCCEED) -> str:
    """An image task that has ended, with a webhook."""
    async with service.database.write() as conn:
        return await make_image_task(conn, service.tenant_id, status=status, webhook_url=url)


async def settled(service: Service, task_id: str) -> Any:
    """The delivery's row once it is delivered or given up, letting pauses pass at once."""
    query = select(webhook_deliveries).where(webhook_deliveries.c.image_task_id == task_id)
    async with asyncio.timeout(PATIENCE):
        while True:
            async with service.database.read() as conn:
                row = (await conn.execute(query)).one()
            if row.delivered_at or row.gave_up_at:
                return row
            if row.message:
                service.database.clock.shift(5)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("status", [ImageStatus.SUCCEED, ImageStatus.FAILED])
async def test_a_webhook_is_told_the_published_event_once(
    service: Service, receiver: Receiver, status: ImageStatus
) -> None:
    task_id = await end_one(service, f"http://127.0.0.1:{receiver.port}/done?key=1", status)
    await service.start(settings=TELLING)
    row = await settled(service, task_id)
    assert (row.attempts, row.delivered_at is not None) == (1, True)
    await asyncio.sleep(0.1)
    ((path, event),) = receiver.heard
    assert path == "/done?key=1"
    assert f"Host: 127.0.0.1:{receiver.port}" in receiver.headers[0]
    assert event["event_type"] == "ASYNC_TASK_RESULT"
    assert event["payload"]["task"]["task_id"] == task_id
    assert event["payload"]["task"]["status"] == status
    assert event["payload"]["extra"]["webhook"]["url"].endswith("/done?key=1")
    assert len(event["payload"]["images"]) == (1 if status is ImageStatus.SUCCEED else 0)


async def test_a_webhook_that_fails_is_told_again(service: Service, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 0]
    task_id = await end_one(service, f"http://127.0.0.1:{receiver.port}/done")
    await service.start(settings=TELLING)
    row = await settled(service, task_id)
    assert (row.attempts, row.delivered_at is not None) == (4, True)
    assert [path for path, _ in receiver.heard] == ["/done"] * 4


async def test_a_webhook_is_given_up_after_five_repetitions(service: Service, receiver: Receiver) -> None:
    receiver.statuses = [500] * 20
    task_id = await end_one(service, f"http://127.0.0.1:{receiver.port}/done")
    await service.start(settings=TELLING)
    row = await settled(service, task_id)
    assert (row.attempts, row.delivered_at, row.message) == (6, None, "answered 500")
    assert len(receiver.heard) == 6


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433"])
async def test_an_address_in_the_house_is_not_called(service: Service, receiver: Receiver, host: str) -> None:
    task_id = await end_one(service, f"http://{host}:{receiver.port}/done")
    await service.start(settings=replace(TELLING, outbound_allow=""))
    row = await settled(service, task_id)
    assert row.gave_up_at is not None
    assert "is not public" in row.message
    assert receiver.heard == []


async def test_a_name_that_does_not_resolve_fails_and_may_come_back() -> None:
    outbound = Outbound(read_networks(LOOPBACK), timeout=5.0)
    try:
        with pytest.raises(OutboundFailed):
            await outbound.post("http://no-such-host.invalid/", b"{}")
        with pytest.raises(OutboundRefused):
            await outbound.post("http://10.0.0.1/", b"{}")
    finally:
        await outbound.close()
