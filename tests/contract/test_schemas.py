"""A database tells which schema it has, and nobody but its server changes it."""

from collections.abc import AsyncGenerator

import pytest
from sqlalchemy import text

from maquette.db.engine import Database, UnusableDatabase, open_database
from maquette.db.migrate import require_current, revision, upgrade_if_new
from maquette.testing.postgres import PostgresServer


@pytest.fixture
async def empty_postgresql(postgres: PostgresServer) -> AsyncGenerator[Database]:
    database = open_database(await postgres.create("empty"))
    yield database
    await database.dispose()
    await postgres.drop("empty")


async def test_an_empty_database_holds_nothing_until_it_is_upgraded(empty_postgresql: Database) -> None:
    with pytest.raises(UnusableDatabase, match="holds nothing of Maquette's"):
        await require_current(empty_postgresql)
    assert await revision(empty_postgresql) is None
    await upgrade_if_new(empty_postgresql)
    await require_current(empty_postgresql)


@pytest.mark.parametrize("other", ["0001", "9999"])
async def test_another_schema_is_refused_by_both_names_and_stays(database: Database, other: str) -> None:
    ours = await revision(database)
    async with database.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = :other"), {"other": other})
    for ask in (require_current, upgrade_if_new):
        with pytest.raises(UnusableDatabase, match=f"has schema {other}, .* needs {ours}"):
            await ask(database)
    assert await revision(database) == other
