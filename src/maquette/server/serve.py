"""The whole service in one process: HTTP, the loops, and trainers and inference workers as its children."""

import asyncio
import fcntl
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import structlog
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar

from maquette.bases.catalogue import BUNDLED_BASE, BUNDLED_PATH
from maquette.core.errors import ErrorReason, MaquetteError
from maquette.db.engine import open_database
from maquette.db.migrate import upgrade
from maquette.executors.base import Executor
from maquette.executors.devices import detect_devices
from maquette.executors.registry import executor_factory
from maquette.server.app import create_app
from maquette.server.bases import service as bases
from maquette.server.loops.supervision import Supervision
from maquette.server.settings import Settings
from maquette.serving.base import Pool
from maquette.serving.registry import pool_factory
from maquette.storage.registry import open_storage

log: Any = structlog.get_logger()

LISTEN_SECONDS = 20.0
SHUTDOWN_SECONDS = 15.0


async def serve(settings: Settings, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: see there.
        host: address to listen on.
        port: 0 picks a free one.
        announce: called once with the address, when requests are answered.

    Raises:
        MaquetteError: the port or the data directory is somebody else's.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with locked(settings.data_dir), reserved_port(host, port) as actual_port:
        async with service(settings) as app:
            await listen(app, host, actual_port, announce)


@asynccontextmanager
async def service(settings: Settings) -> AsyncGenerator[Litestar]:
    """Everything but the HTTP server: database, storage, executor, pool, running loops, and the app over them."""
    if settings.sandbox:
        log.warning("server.sandbox", bases=BUNDLED_BASE.name, steps=settings.sandbox_steps, side=settings.sandbox_side)
    database = open_database(settings.database)
    try:
        await upgrade(database)
        bundled = await bases.inspect_folder(BUNDLED_BASE.name, BUNDLED_PATH)
        async with database.write() as conn:
            await bases.register(conn, bundled)
        storage = open_storage(settings.storage)
        executor: Executor = executor_factory(settings.executor)(
            settings.data_dir / "runs",
            storage,
            devices=detect_devices(settings.devices),
            settings=settings.node_settings,
        )
        pool: Pool = pool_factory(settings.pool)(
            settings.data_dir / "serving",
            storage,
            devices=detect_devices(settings.drawing_devices),
            settings=settings.pool_settings,
        )
        supervision = Supervision(settings, database, storage, executor, pool)
        try:
            await pool.start()
            await supervision.start()
            yield create_app(settings, database, storage, pool)
        finally:
            await end_all(supervision.stop, pool.close, executor.close)
    finally:
        await database.dispose()


async def listen(app: Litestar, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Answer requests until a signal says stop."""
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        websockets=False,
        log_enabled=False,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await until_answering(host, port, serving)
    announce(f"http://{host}:{port}")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if serving.done():
        serving.result()
        raise MaquetteError(ErrorReason.INTERNAL_ERROR, "the HTTP server ended by itself")
    log.info("server.stopping")
    server.stop()
    # Granian waits for open connections as long as they last; an idle client must not keep the service from ending.
    done, _ = await asyncio.wait({serving}, timeout=SHUTDOWN_SECONDS)
    if not done:
        serving.cancel()


async def until_answering(host: str, port: int, serving: asyncio.Task[Any]) -> None:
    """Wait until the port accepts connections.

    Raises:
        MaquetteError: the server ended instead, or takes too long.
    """
    deadline = asyncio.get_running_loop().time() + LISTEN_SECONDS
    while not serving.done() and asyncio.get_running_loop().time() < deadline:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return
    raise MaquetteError(ErrorReason.SERVICE_UNAVAILABLE, f"nothing answers on {host}:{port}")


async def end_all(*ends: Callable[[], Awaitable[None]]) -> None:
    """Await each in turn, also after one has failed; what failed last is raised."""
    async with AsyncExitStack() as stack:
        for end in reversed(ends):
            stack.push_async_callback(end)


@contextmanager
def locked(data_dir: Path) -> Generator[None]:
    """Hold a data directory for this process alone; the kernel lets go of it however the process ends.

    Raises:
        MaquetteError: another server has it.
    """
    with (data_dir / "server.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaquetteError(
                ErrorReason.CONFLICT, f"another server runs on {data_dir}; give this one a --data-dir of its own"
            ) from None
        yield


@contextmanager
def reserved_port(host: str, port: int) -> Generator[int]:
    """Find out which port will be ours, and keep it from being given away before Granian binds it.

    Granian never tells the port it got for 0, and binds with SO_REUSEPORT, so that a second server on the same port
    would go unnoticed. Binding without that option first makes the clash an error.

    Raises:
        MaquetteError: the port is taken, or the address is not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise MaquetteError(ErrorReason.CONFLICT, f"can't listen on {host}:{port}: {error}") from error
    with socket.socket(family, kind, protocol) as probe:
        # A port whose last connections are still winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise MaquetteError(ErrorReason.CONFLICT, f"can't listen on {host}:{port}: {error.strerror}") from error
        actual: int = probe.getsockname()[1]
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((address[0], actual))
        yield actual
