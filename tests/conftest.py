"""Databases for every test: SQLite, and a real PostgreSQL that must start, or the tests fail."""

import os
import shutil
from collections.abc import AsyncGenerator, Callable, Generator
from itertools import count
from pathlib import Path

import pytest

from maquette.db.engine import Database, open_database
from maquette.db.migrate import upgrade
from maquette.testing.postgres import PostgresServer

# Before torch is imported, and for processes that tests start: what tiny bases compute is too little to be shared, and
# waiting for another thread takes longer than the work, the more so the busier the cores are.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TEMPLATE = "template_maquette"
numbers = count(1)


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """A PostgreSQL server of this test process, without databases."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
async def postgres_template(postgres: PostgresServer) -> str:
    """Name of a migrated PostgreSQL database to copy."""
    await _migrate(await postgres.create(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
async def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    await _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """URL of a migrated, empty SQLite database."""
    path = tmp_path / "maquette.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
async def postgresql_url(postgres: PostgresServer, postgres_template: str) -> AsyncGenerator[str]:
    """URL of a migrated, empty PostgreSQL database."""
    name = f"test_{next(numbers)}"
    yield await postgres.create(name, template=postgres_template)
    await postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated, empty database; the test runs once on each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def open_another(database_url: str) -> AsyncGenerator[Callable[[], Database]]:
    """Opens the database of `database_url` again, as another process would."""
    opened: list[Database] = []

    def open_it() -> Database:
        opened.append(open_database(database_url))
        return opened[-1]

    yield open_it
    for database in opened:
        await database.dispose()


@pytest.fixture
def database(open_another: Callable[[], Database]) -> Database:
    """A migrated, empty database, open; the test runs once on each kind."""
    return open_another()


@pytest.fixture
async def sqlite_database(sqlite_url: str) -> AsyncGenerator[Database]:
    """A migrated, empty SQLite database, open; for tests that the kind does not concern."""
    database = open_database(sqlite_url)
    yield database
    await database.dispose()


async def _migrate(url: str) -> None:
    database = open_database(url)
    await upgrade(database)
    await database.dispose()
