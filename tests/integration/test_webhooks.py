"""Webhooks are told over real connections, and nobody else is."""

import asyncio
import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from msgspec.structs import replace
from sqlalchemy import select

from maquette.core.lifecycle import ImageStatus
from maquette.db.now import now
from maquette.db.tables import webhook_deliveries
from maquette.server.loops.deliver import AT_A_TIME, SLOW_WEBHOOK
from maquette.server.webhooks import queue
from maquette.server.webhooks.lookups import OF_ONE_TENANT
from maquette.server.webhooks.outbound import Outbound, OutboundFailed, OutboundRefused
from maquette.server.webhooks.reach import Reach, read_networks
from maquette.testing.factories import image_spec, make_image_task, make_tenant
from maquette.testing.loops import PATIENCE, SETTINGS, Service

LOOPBACK = "127.0.0.0/8,::1"
ENDLESS = -1
TELLING = replace(SETTINGS, outbound_allow=LOOPBACK, webhook_timeout=1.0, signing_secret="s" * 32)


class Receiver:
    """An HTTP server that answers with the statuses it is given, then with 200.

    0 is no answer at all, `ENDLESS` a 200 whose body never ends.

    Attributes:
        sent: bytes of an endless body that were taken.
    """

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[str] = []
        self.port = 0
        self.sent = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
        )
        self.heard.append((head.split(" ")[1], json.loads(await reader.readexactly(length))))
        self.headers.append(head)
        status = self.statuses.pop(0) if self.statuses else 200
        if status == ENDLESS:
            await self._answer_without_end(writer)
        elif status:
            location = f"Location: http://127.0.0.1:{self.port}/elsewhere\r\n" if status == 302 else ""
            writer.write(f"HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    async def _answer_without_end(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
                self.sent += 0x10000


async def serving(tls: ssl.SSLContext | None = None) -> AsyncGenerator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async for receiver in serving():
        yield receiver


@pytest.fixture
async def tls_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Receiver]:
    """A receiver that speaks TLS as `hook.example`, whose certificate is trusted here."""
    file = certificate(tmp_path / "hook.pem", "hook.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    async for receiver in serving(context):
        yield receiver


def certificate(file: Path, name: str) -> Path:
    """A key and a certificate that it has signed itself, good for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    at = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(at - timedelta(hours=1))
        .not_valid_after(at + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + made.public_bytes(Encoding.PEM))
    return file


async def end_one(
    service: Service, url: str, status: ImageStatus = ImageStatus.SUCCEED, tenant_id: str | None = None
) -> str:
    """An image task that has ended, with a webhook; of the service's tenant unless it is said whose."""
    async with service.database.write() as conn:
        return await make_image_task(conn, tenant_id or service.tenant_id, status=status, webhook_url=url)


async def the_row(service: Service, task_id: str) -> Any:
    query = select(webhook_deliveries).where(webhook_deliveries.c.image_task_id == task_id)
    async with service.database.read() as conn:
        return (await conn.execute(query)).one()


async def settled(service: Service, task_id: str) -> Any:
    """The delivery's row once it is delivered or given up, letting pauses pass at once."""
    async with asyncio.timeout(PATIENCE):
        while True:
            row = await the_row(service, task_id)
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


@pytest.mark.parametrize("sandbox", [True, False])
async def test_a_sandbox_tells_late_where_the_prompt_asks_for_that(
    service: Service, receiver: Receiver, sandbox: bool
) -> None:
    async with service.database.write() as conn:
        url = f"http://127.0.0.1:{receiver.port}/done"
        task_id = await make_image_task(
            conn,
            service.tenant_id,
            status=ImageStatus.SUCCEED,
            webhook_url=url,
            spec=image_spec("sandbox: slow-webhook"),
        )
    await service.start(settings=replace(TELLING, sandbox=sandbox))
    if sandbox:
        async with asyncio.timeout(PATIENCE):
            while not (row := await the_row(service, task_id)).message:
                await asyncio.sleep(0.02)
        assert (row.attempts, row.message, receiver.heard) == (1, "put off, as the prompt asks", [])
        async with service.database.read() as conn:
            assert SLOW_WEBHOOK - 5 < row.not_before - await now(conn) <= SLOW_WEBHOOK
    row = await settled(service, task_id)
    assert (row.attempts, row.delivered_at is not None) == (2 if sandbox else 1, True)
    assert len(receiver.heard) == 1


async def test_the_pauses_between_attempts_double(service: Service, receiver: Receiver) -> None:
    receiver.statuses = [500, 501, 502, 503, 504, 505]
    task_id = await end_one(service, f"http://127.0.0.1:{receiver.port}/done")
    await service.start(settings=TELLING)
    pauses: list[float] = []
    async with asyncio.timeout(PATIENCE):
        while len(pauses) < 5:
            row = await the_row(service, task_id)
            if row.message == f"answered {500 + len(pauses)}":
                async with service.database.read() as conn:
                    pauses.append(row.not_before - await now(conn))
                service.database.clock.shift(pauses[-1])
            await asyncio.sleep(0.01)
    assert pauses == pytest.approx([1, 2, 4, 8, 16], abs=0.5)
    assert (await settled(service, task_id)).message == "answered 505"


async def test_a_body_that_never_ends_is_not_read(service: Service, receiver: Receiver) -> None:
    receiver.statuses = [ENDLESS]
    task_id = await end_one(service, f"http://127.0.0.1:{receiver.port}/done")
    await service.start(settings=TELLING)
    row = await settled(service, task_id)
    assert (row.attempts, row.delivered_at is not None) == (1, True)
    await asyncio.sleep(0.2)
    # What the sockets' buffers hold, and no more.
    assert receiver.sent < 32 * 1024 * 1024


@pytest.mark.parametrize(
    ("begun", "heard", "delivered"), [(1, 1, True), (5, 1, True), (6, 0, False)], ids=["first", "fifth", "last"]
)
async def test_a_server_that_died_in_an_attempt_has_used_it_up(
    service: Service, receiver: Receiver, begun: int, heard: int, delivered: bool
) -> None:
    task_id = await end_one(service, f"http://127.0.0.1:{receiver.port}/done")
    async with service.database.write() as conn:
        for _ in range(begun):
            (due,) = await queue.due(conn, limit=10)
            claimed = await queue.claim(conn, due, hold=0.0)
            assert claimed is not None
    await service.start(settings=TELLING)
    row = await settled(service, task_id)
    assert (row.attempts, row.delivered_at is not None) == (begun + heard, delivered)
    assert len(receiver.heard) == heard
    assert row.message == ("" if delivered else "the server was lost in the last attempt")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433"])
async def test_an_address_in_the_house_is_not_called(service: Service, receiver: Receiver, host: str) -> None:
    task_id = await end_one(service, f"http://{host}:{receiver.port}/done")
    await service.start(settings=replace(TELLING, outbound_allow=""))
    row = await settled(service, task_id)
    assert (row.attempts, row.gave_up_at is not None) == (1, True)
    assert "is not public" in row.message
    assert receiver.heard == []


@pytest.mark.parametrize(
    "url", ["http://a..b/", "http://[::1/", "ftp://example.com/", "http://127.0.0.1:0/", "http://xn--/"]
)
async def test_what_is_no_address_is_given_up_at_once(service: Service, url: str) -> None:
    task_id = await end_one(service, url)
    await service.start(settings=TELLING)
    row = await settled(service, task_id)
    assert (row.attempts, row.gave_up_at is not None) == (1, True)
    assert row.message.startswith("the address must ")


def resolving_to(*answers: list[str]) -> Callable[..., list[Any]]:
    """A resolver that answers each look-up with the next of these lists of addresses; the last stays."""
    left = list(answers)

    def look_up(_host: str, port: int, **_more: Any) -> list[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(None, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    return look_up


class HalfSilent:
    """A resolver of which names under `silent.example` get no answer until it is told to speak; others are loopback.

    Attributes:
        asked: names that got no answer at first, in order.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._speaks = threading.Event()

    def look_up(self, host: str, port: int, **_more: Any) -> list[Any]:
        if host.endswith("silent.example"):
            self.asked.append(host)
            assert self._speaks.wait(PATIENCE)
            raise socket.gaierror("no name server answered")
        return [(None, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def speak(self) -> None:
        self._speaks.set()


@pytest.fixture
def half_silent(monkeypatch: pytest.MonkeyPatch) -> Generator[HalfSilent]:
    resolver = HalfSilent()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.look_up)
    yield resolver
    resolver.speak()


async def test_names_that_hang_cost_other_tenants_no_attempt_and_their_own_only_what_was_looked_up(
    service: Service, receiver: Receiver, half_silent: HalfSilent
) -> None:
    silent = [await end_one(service, f"http://{number}.silent.example/") for number in range(3 * AT_A_TIME)]
    async with service.database.write() as conn:
        other = await make_tenant(conn)
    await service.start(settings=TELLING)
    async with asyncio.timeout(PATIENCE):
        while len(half_silent.asked) < OF_ONE_TENANT:
            await asyncio.sleep(0.01)
        # Longer than a call may take: what was looked up has failed by then, and the threads hang all the same.
        await asyncio.sleep(TELLING.webhook_timeout + 0.3)
    quick = await end_one(service, f"http://hook.example:{receiver.port}/done", tenant_id=other)
    row = await settled(service, quick)
    assert (row.attempts, row.delivered_at is not None, len(receiver.heard)) == (1, True, 1)
    assert len(half_silent.asked) == OF_ONE_TENANT
    rows = [await the_row(service, task_id) for task_id in silent]
    assert sorted(row.attempts for row in rows)[-OF_ONE_TENANT - 1 :] == [0] + [1] * OF_ONE_TENANT
    assert {row.message for row in rows} == {"", "no answer within 1 s"}
    half_silent.speak()
    async with asyncio.timeout(PATIENCE):
        while not all([(await the_row(service, task_id)).attempts for task_id in silent]):
            await asyncio.sleep(0.05)


async def test_stopping_waits_for_no_name(service: Service, half_silent: HalfSilent) -> None:
    waiting = [await end_one(service, f"http://{number}.silent.example/") for number in range(AT_A_TIME)]
    supervision = await service.start(settings=TELLING)
    async with asyncio.timeout(PATIENCE):
        while len(half_silent.asked) < OF_ONE_TENANT:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(3 * TELLING.webhook_timeout):
        await supervision.stop()
    assert len(half_silent.asked) == OF_ONE_TENANT
    assert sum([(await the_row(service, task_id)).attempts for task_id in waiting]) == OF_ONE_TENANT


async def test_tenants_take_turns(service: Service) -> None:
    async with service.database.write() as conn:
        other = await make_tenant(conn)
    many = [await end_one(service, "http://hook.example/") for _ in range(3)]
    one = await end_one(service, "http://hook.example/", tenant_id=other)
    async with service.database.read() as conn:
        due = await queue.due(conn, limit=2)
    assert [delivery.image_task_id for delivery in due] == [many[0], one]


async def post(outbound: Outbound, url: str, body: bytes) -> int:
    place = await outbound.place("a tenant")
    assert place is not None
    with place:
        return await outbound.post(place, url, body)


@pytest.fixture
async def outbound() -> AsyncGenerator[Outbound]:
    """May call 127.0.0.1 beside what is public."""
    outbound = Outbound(Reach(read_networks("127.0.0.1")), timeout=5.0)
    yield outbound
    outbound.close()


@pytest.mark.parametrize("among", [["127.0.0.2"], ["127.0.0.1", "169.254.169.254"], ["127.0.0.1", "::ffff:a00:1"]])
async def test_a_name_is_called_only_if_all_its_addresses_may_be(
    outbound: Outbound, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, among: list[str]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(among))
    with pytest.raises(OutboundRefused, match=f"hook.example is at {among[-1]}, which is not public"):
        await post(outbound, f"http://hook.example:{receiver.port}/", b"{}")
    assert receiver.heard == []


async def test_the_connection_goes_to_the_address_that_was_judged(
    outbound: Outbound, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name means a moment later: a second look-up would find another address."""
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(["127.0.0.1"], ["127.0.0.2"]))
    assert await post(outbound, f"http://hook.example:{receiver.port}/done", b"{}") == 200
    assert f"Host: hook.example:{receiver.port}\r\n" in receiver.headers[0]
    with pytest.raises(OutboundRefused):
        await post(outbound, f"http://hook.example:{receiver.port}/done", b"{}")


async def test_an_address_that_takes_no_connection_gives_way_to_the_next(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(["::1", "127.0.0.3", "127.0.0.1"]))
    outbound = Outbound(Reach(read_networks(LOOPBACK)), timeout=5.0)
    assert await post(outbound, f"http://hook.example:{receiver.port}/done", b"{}") == 200
    outbound.close()


async def test_a_certificate_is_the_names_and_not_the_addresss(
    tls_receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(["127.0.0.1"]))
    outbound = Outbound(Reach(read_networks("127.0.0.1")), timeout=5.0)
    assert await post(outbound, f"https://hook.example:{tls_receiver.port}/done", b"{}") == 200
    for other in ("other.example", "127.0.0.1"):
        with pytest.raises(OutboundFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await post(outbound, f"https://{other}:{tls_receiver.port}/done", b"{}")
    assert len(tls_receiver.heard) == 1
    outbound.close()


async def test_no_call_knows_of_another(outbound: Outbound, receiver: Receiver) -> None:
    receiver.statuses = [ENDLESS]
    for _ in range(2):
        assert await post(outbound, f"http://127.0.0.1:{receiver.port}/done", b"{}") == 200
    assert "cookie" not in receiver.headers[1].lower()


async def test_a_name_and_a_password_are_sent_as_such(outbound: Outbound, receiver: Receiver) -> None:
    assert await post(outbound, f"http://user:pass%20word@127.0.0.1:{receiver.port}/done#part", b"{}") == 200
    assert f"Authorization: Basic {b64encode(b'user:pass word').decode()}\r\n" in receiver.headers[0]
    assert f"Host: 127.0.0.1:{receiver.port}\r\n" in receiver.headers[0]
    assert receiver.heard[0][0] == "/done"


async def test_a_name_that_does_not_resolve_fails_and_may_come_back(outbound: Outbound) -> None:
    with pytest.raises(OutboundFailed, match=r"no-such-host\.invalid can't be resolved"):
        await post(outbound, "http://no-such-host.invalid/", b"{}")
    with pytest.raises(OutboundRefused):
        await post(outbound, "http://10.0.0.1/", b"{}")
