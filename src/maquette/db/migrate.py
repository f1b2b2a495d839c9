"""Bring a database to the schema of this version."""

import asyncio
import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from maquette.db.engine import Database, UnusableDatabase

MIGRATIONS = Path(__file__).parent / "migrations"

_one_at_a_time = asyncio.Lock()
"""Alembic keeps what it is doing in globals of its own. Between processes, the migrations' own lock counts."""


async def upgrade(database: Database) -> None:
    """Apply the migrations that are missing, all or none; whoever else does so at the same time waits.

    Raises:
        UnusableDatabase: a newer version of Maquette has changed the schema.
    """
    async with _one_at_a_time, database.migrate() as conn:
        await conn.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise UnusableDatabase(
            f"this version of Maquette does not know the database's schema ({error}); use the one that last ran here"
        ) from error
