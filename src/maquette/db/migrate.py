"""Bring a database to the schema of this version, and tell whether it has it."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.engine import Database, UnusableDatabase

MIGRATIONS = Path(__file__).parent / "migrations"

_one_at_a_time = asyncio.Lock()
"""Alembic keeps what it is doing in globals of its own. Between processes, the migrations' own lock counts."""


async def upgrade(database: Database) -> None:
    """Apply the migrations that are missing, all or none; whoever else does so at the same time waits.

    Raises:
        UnusableDatabase: it can't be opened, or a newer version of Maquette has changed the schema.
    """
    async with _one_at_a_time, _opened(database, database.migrate()) as conn:
        await conn.run_sync(_upgrade)


async def upgrade_if_new(database: Database) -> None:
    """Give a database that has no schema yet this version's; one that has another is left alone.

    Raises:
        UnusableDatabase: it can't be opened, or has another version's schema.
    """
    if await revision(database) is None:
        await upgrade(database)
    await require_current(database)


async def require_current(database: Database) -> None:
    """Make sure that the database has this version's schema. Changes and creates nothing.

    Raises:
        UnusableDatabase: it has not, in words that name the fix.
    """
    found = await revision(database)
    if found is None:
        raise UnusableDatabase(f"{database.name} holds nothing of Maquette's; is this the data directory of a server?")
    scripts = ScriptDirectory.from_config(_config())
    ours = scripts.get_current_head()
    if found == ours:
        return
    is_older = any(script.revision == found for script in scripts.walk_revisions())
    fix = "start its `maquette serve` to migrate" if is_older else "use the version that serves it"
    raise UnusableDatabase(f"{database.name} has schema {found}, this version of Maquette needs {ours}; {fix}")


async def revision(database: Database) -> str | None:
    """What schema the database has; None where there is none, or no database. Creates nothing.

    Raises:
        UnusableDatabase: it can't be opened.
    """
    if database.file is not None and not database.file.exists():
        return None
    async with _opened(database, database.read()) as conn:
        return await conn.run_sync(lambda connection: MigrationContext.configure(connection).get_current_revision())


@asynccontextmanager
async def _opened(
    database: Database, transaction: AbstractAsyncContextManager[AsyncConnection]
) -> AsyncGenerator[AsyncConnection]:
    """A transaction; whatever the driver says when it can't connect is put into words."""
    async with AsyncExitStack() as stack:
        try:
            conn = await stack.enter_async_context(transaction)
        except Exception as error:
            words = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise UnusableDatabase(f"{database.name} can't be opened: {words or type(error).__name__}") from error
        yield conn


def _upgrade(connection: Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        command.upgrade(_config(connection=connection), "head")
    except CommandError as error:
        raise UnusableDatabase(
            f"this version of Maquette does not know the database's schema ({error}); use the one that last ran here"
        ) from error


def _config(**attributes: object) -> Config:
    config = Config(attributes=attributes)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
