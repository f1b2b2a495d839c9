"""What lies here does not depend on the kind of database."""

import asyncio
import socket
from collections.abc import AsyncGenerator

import pytest
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar

from maquette.db.engine import Database


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """A migrated, empty SQLite database."""
    return sqlite_database


@pytest.fixture
async def port(app: Litestar) -> AsyncGenerator[int]:
    """The application on a free port of this machine, served as `maquette serve` does it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI, websockets=False, log_enabled=False)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not await answers(port):
            await asyncio.sleep(0.02)
    yield port
    server.stop()
    async with asyncio.timeout(10):
        await serving


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
