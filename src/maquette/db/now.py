"""The one clock that decides: the database's, in Unix seconds."""

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.dialects import UnixNow


class Clock:
    """How far a database's clock is shifted, in seconds: 0, except in tests that don't want to wait."""

    def __init__(self) -> None:
        self.offset = 0.0

    def shift(self, seconds: float) -> None:
        """Let every later question for the time answer that much more."""
        self.offset += seconds


def now_sql(conn: AsyncConnection) -> ColumnElement[float]:
    """The current time as an expression, for use inside a statement on `conn`."""
    clock: Clock = (conn.sync_connection or conn.sync_engine).get_execution_options()["clock"]
    return UnixNow() + clock.offset


async def now(conn: AsyncConnection) -> float:
    """The current time, also within a transaction that began earlier."""
    return (await conn.execute(select(now_sql(conn)))).scalar_one()
