"""How a database is opened, and the two kinds of transaction there are.

SQLite and PostgreSQL differ here, in `dialects` and in nothing else.
"""

import sqlite3
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, NullPool, event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from maquette.db.now import Clock

BUSY_TIMEOUT = 30.0
"""Seconds that a SQLite writer waits for another process's write, and any caller for a free connection."""

WRITER_PRAGMAS = {"journal_mode": "WAL", "synchronous": "FULL", "foreign_keys": "ON"}
READER_PRAGMAS = {"query_only": "ON"}
MIGRATION_PRAGMAS = {"journal_mode": "WAL", "synchronous": "FULL", "foreign_keys": "OFF"}
"""A table that a migration rebuilds would take its children's rows with it if foreign keys were on, and they can
only be switched off before a transaction begins. The migrations check them before they commit."""


class UnusableDatabase(Exception):
    """The URL names no database that this installation can open; the message says what to write or install."""


class RollbackOnClose(sqlite3.Connection):
    """Lets go of the write lock when it is closed.

    Python closes a connection in name only while a statement is unfinished, as it is when its caller was cancelled,
    and the transaction would stay open until the statement is collected.
    """

    def close(self) -> None:
        """Roll back what is open, then close."""
        self.rollback()
        super().close()


class Database:
    """An open database.

    Attributes:
        name: how messages call it: its URL without what may be secret.
        file: where it lies, if it is one file.
        clock: its clock, which tests may shift.
    """

    def __init__(
        self, url: URL, *, reader: AsyncEngine, writer: AsyncEngine, migrator: AsyncEngine, clock: Clock
    ) -> None:
        self.name = url.set(query={}).render_as_string(hide_password=True)
        self.file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
        self._reader = reader
        self._writer = writer
        self._migrator = migrator
        self.clock = clock

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction that may write: committed when the block ends well, else rolled back.

        Keep it short: SQLite has one writer at a time. Never open a second one inside the first.

        Two transactions that lock the same rows in different orders wait for each other for ever. The one order is:
        an idempotency key, assets by id, attempts, the task, counters (as `maquette.db.counters` orders them; every
        event takes some), device claims. A row that is only now inserted may come later: nobody can hold what nobody
        has seen.
        """
        async with self._writer.begin() as conn:
            yield conn

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """One snapshot: every query of the block sees the same moment. Writing fails."""
        async with self._reader.connect() as conn:
            yield conn

    @asynccontextmanager
    async def migrate(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction that may rebuild tables; for `maquette.db.migrate` alone."""
        async with self._migrator.begin() as conn:
            yield conn

    async def dispose(self) -> None:
        """Close every connection."""
        for engine in (self._reader, self._writer, self._migrator):
            await engine.dispose()


def open_database(url: str) -> Database:
    """Open `sqlite:///path` or `postgresql://user:password@host/name`. Connects on first use.

    Raises:
        UnusableDatabase: another kind of URL, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UnusableDatabase(
            "the database URL can't be read; write sqlite:///path/to/file or postgresql://user@host/name"
        ) from None
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case "postgresql" | "postgres":
            return _open_postgresql(parsed)
        case other:
            raise UnusableDatabase(f"no support for {other!r} databases; the URL must start with sqlite or postgresql")


def _open_sqlite(url: URL) -> Database:
    if url.database in (None, "", ":memory:"):
        raise UnusableDatabase("a SQLite database needs a file: write sqlite:///path/to/file")
    clock = Clock()
    return Database(
        url,
        reader=_sqlite_engine(url, clock, "DEFERRED", READER_PRAGMAS),
        # One connection: writers of this process queue in order instead of polling the file's lock.
        writer=_sqlite_engine(url, clock, "IMMEDIATE", WRITER_PRAGMAS, pool_size=1, max_overflow=0),
        migrator=_sqlite_engine(url, clock, "IMMEDIATE", MIGRATION_PRAGMAS, poolclass=NullPool),
        clock=clock,
    )


def _sqlite_engine(url: URL, clock: Clock, begin: str, pragmas: Mapping[str, str], **pool: Any) -> AsyncEngine:
    connect = {"timeout": BUSY_TIMEOUT, "factory": RollbackOnClose}
    engine = _engine(url.set(drivername="sqlite+aiosqlite"), clock, connect_args=connect, **pool)

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(dbapi: Any, _record: object) -> None:
        dbapi.isolation_level = None  # the driver must not begin transactions of its own
        cursor = dbapi.cursor()
        for name, value in pragmas.items():
            cursor.execute(f"PRAGMA {name} = {value}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(conn: Connection) -> None:
        # A transaction that reads, then writes, fails at once under DEFERRED when somebody wrote in between.
        conn.exec_driver_sql(f"BEGIN {begin}")

    return engine


def _open_postgresql(url: URL) -> Database:
    clock = Clock()
    query = dict(url.query)
    if "sslmode" in query:  # libpq's name; asyncpg knows the same values as `ssl`
        query["ssl"] = query.pop("sslmode")
    try:
        # A pinged connection survives the database's restart without a failed request.
        engine = _engine(url.set(drivername="postgresql+asyncpg", query=query), clock, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise UnusableDatabase(f"PostgreSQL needs {error.name}: pip install 'maquette[postgres]'") from error
    reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return Database(url, reader=reader, writer=engine, migrator=engine, clock=clock)


def _engine(url: URL, clock: Clock, **options: Any) -> AsyncEngine:
    return create_async_engine(
        url,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        execution_options={"clock": clock},
        **options,
    )
