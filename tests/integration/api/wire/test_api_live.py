"""Uploads over real sockets: what only a real server and an ill-behaved client can show."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
from msgspec import Struct
from structlog.testing import capture_logs

from maquette.storage.base import Storage
from maquette.testing.api import Api, Traces, picture, reason

LIMIT = 30_000_000
ENDLESS = (100_000).to_bytes(4) + b"IDAT" + bytes(100_004)
"""A PNG chunk after which more may come."""


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Live(Struct):
    """A running server and a tenant's address to upload to."""

    port: int
    target: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def head(self, *headers: str) -> bytes:
        lines = [f"PUT {self.target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers, "", ""]
        return "\r\n".join(lines).encode()


@pytest.fixture
async def live(port: int, api: Api) -> Live:
    """The application on a free port of this machine, and an address to upload to."""
    url = urlsplit((await api.asset())["upload_url"])
    return Live(port, f"{url.path}?{url.query}")


async def test_a_whole_picture_over_the_wire(live: Live, storage: Storage) -> None:
    data = picture("png", (640, 480))
    async with httpx.AsyncClient() as http:
        response = await http.put(f"http://127.0.0.1:{live.port}{live.target}", content=data)
    assert (response.status_code, response.content) == (200, b"")
    assert [info.size async for info in storage.list("uploads")] == [len(data)]


async def test_expect_continue(live: Live, traces: Traces) -> None:
    data = picture()
    before = await traces.count()
    reader, writer = await live.connect()
    writer.write(live.head("Expect: 100-continue", f"Content-Length: {len(data)}", "Connection: close"))
    async with asyncio.timeout(10):
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert await reader.readline() == b"\r\n"
        writer.write(data)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    assert (await traces.count())["objects"] == before["objects"] + 1


async def test_a_declared_size_over_the_limit_is_refused_before_a_byte_is_read(live: Live, traces: Traces) -> None:
    before = await traces.count()
    reader, writer = await live.connect()
    writer.write(live.head(f"Content-Length: {LIMIT + 1}"))
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b"}}") if b"}}" not in head else b""
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"IMAGE_FILE_EXCEEDS_MAX_SIZE" in body
    assert await traces.count() == before


async def test_an_endless_upload_is_answered_at_the_limit(live: Live, traces: Traces) -> None:
    before = await traces.count()
    reader, writer = await live.connect()
    writer.write(live.head("Transfer-Encoding: chunked") + chunked(picture()[:-12]))
    answer = asyncio.create_task(reader.readuntil(b"}}"))
    sent = 0
    async with asyncio.timeout(30):
        while not answer.done() and sent < 2 * LIMIT:
            writer.write(chunked(ENDLESS))
            await writer.drain()
            sent += len(ENDLESS)
        assert b"IMAGE_FILE_EXCEEDS_MAX_SIZE" in await answer
    writer.transport.abort()
    # What lies in the kernels' buffers has been sent, but has not been received.
    assert LIMIT - len(ENDLESS) < sent < LIMIT + 10_000_000
    assert await traces.count() == before


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 10_000_000])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_client_that_sends_first_and_reads_later_still_reads_why(
    live: Live, traces: Traces, size: int, declared: bool
) -> None:
    data = picture()[:-12] + ENDLESS * (size // len(ENDLESS))
    data += bytes(size - len(data))

    async def undeclared() -> AsyncIterator[bytes]:
        for start in range(0, size, 1_000_000):
            yield data[start : start + 1_000_000]

    before = await traces.count()
    async with httpx.AsyncClient(timeout=30) as http:
        url = f"http://127.0.0.1:{live.port}{live.target}"
        response = await http.put(url, content=data if declared else undeclared())
        assert reason(response) == (400, "IMAGE_FILE_EXCEEDS_MAX_SIZE")
        altered = await http.put(url[:-1], content=data[:20_000_000])
        assert reason(altered) == (403, "UPLOAD_URL_INVALID")
    assert await traces.count() == before


async def test_a_client_that_breaks_off_leaves_nothing(live: Live, traces: Traces) -> None:
    before = await traces.count()
    data = picture("png", (640, 480))
    with capture_logs() as logs:
        for sent in (0, 1, len(data) - 1):
            _, writer = await live.connect()
            writer.write(live.head(f"Content-Length: {len(data)}") + data[:sent])
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.transport.abort()
        await asyncio.sleep(0.3)
    assert [line["event"] for line in logs] == ["client left"] * 3
    assert await traces.count() == before
    async with httpx.AsyncClient() as http:
        response = await http.put(f"http://127.0.0.1:{live.port}{live.target}", content=data)
    assert response.status_code == 200


async def test_ten_uploads_at_once(live: Live, api: Api, traces: Traces) -> None:
    addresses = [(await api.asset())["upload_url"].partition("maquette.test")[2] for _ in range(10)]
    before = await traces.count()
    async with httpx.AsyncClient() as http:
        responses = await asyncio.gather(
            *(http.put(f"http://127.0.0.1:{live.port}{address}", content=picture()) for address in addresses)
        )
    assert [response.status_code for response in responses] == [200] * 10
    assert (await traces.count())["objects"] == before["objects"] + 10


async def test_the_same_address_used_ten_times_at_once_keeps_one_picture(live: Live, traces: Traces) -> None:
    colours = ["red", "green", "blue", "white", "black", "cyan", "pink", "gold", "navy", "teal"]
    before = await traces.count()
    async with httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{live.port}{live.target}"
        responses = await asyncio.gather(*(http.put(url, content=picture(colour=colour)) for colour in colours))
    assert [response.status_code for response in responses] == [200] * 10
    assert (await traces.count())["objects"] == before["objects"] + 1
