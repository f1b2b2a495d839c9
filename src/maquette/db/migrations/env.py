"""Runs migrations on the connection that `maquette.db.migrate` hands over, inside its transaction."""

from alembic import context
from sqlalchemy import Connection, text

from maquette.db.tables import metadata

ADVISORY_LOCK = 0x6D61717565747465  # "maquette"


def run(connection: Connection) -> None:
    """Upgrade under a lock: SQLite's transaction is one, PostgreSQL needs to be asked."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
    context.run_migrations()
    if connection.dialect.name == "sqlite":
        check_foreign_keys(connection)


def check_foreign_keys(connection: Connection) -> None:
    """Foreign keys are off while tables are rebuilt; what they would have refused ends the upgrade here.

    Raises:
        RuntimeError: a row points to nothing; the transaction is rolled back.
    """
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise RuntimeError(f"the migration would leave rows that point to nothing: {broken[:5]}")


run(context.config.attributes["connection"])
