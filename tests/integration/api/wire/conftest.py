"""What lies here does not depend on the kind of database."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import pytest
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar

from maquette.core.lifecycle import ImageStatus
from maquette.db.engine import Database
from maquette.server.access.repository import tenant_id
from maquette.storage.base import Storage
from maquette.testing.api import Api, picture
from maquette.testing.factories import make_image_task


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


@pytest.fixture
async def drawn(api: Api, database: Database, storage: Storage) -> str:
    """The address of a drawn picture of the first tenant, without its host."""
    async with database.write() as conn:
        task_id = await make_image_task(conn, await tenant_id(conn, "first"), status=ImageStatus.SUCCEED)
    (image,) = (await api.result(task_id))["images"]
    address = urlsplit(image["image_url"])
    await storage.put(address.path.removeprefix("/"), picture())
    return f"{address.path}?{address.query}"


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
