"""What SQLite and PostgreSQL spell differently."""

from typing import Any

from sqlalchemy import Double, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


def insert(conn: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that may go on with `on_conflict_do_update` or `on_conflict_do_nothing`."""
    return postgresql.insert(table) if conn.dialect.name == "postgresql" else sqlite.insert(table)


class UnixNow(FunctionElement[float]):
    """Unix seconds by the database server's clock; not the transaction's start."""

    type = Double()
    name = "unix_now"
    inherit_cache = True


@compiles(UnixNow, "sqlite")
def _sqlite_now(_element: UnixNow, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(UnixNow, "postgresql")
def _postgresql_now(_element: UnixNow, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
