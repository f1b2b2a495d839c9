"""The migrations make exactly the tables of `maquette.db.tables`, once, whoever asks and however often."""

import asyncio
import shutil
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import TaskStatus
from maquette.db import migrate
from maquette.db.counters import ALL_BASES, next_number
from maquette.db.engine import Database, UnusableDatabase, open_database
from maquette.db.tables import attempts, bases, events, metadata, models, tasks, tenants
from maquette.testing.factories import make_dataset, make_model, make_task, make_tenant
from maquette.testing.postgres import PostgresServer

HEAD = max(file.name for file in (migrate.MIGRATIONS / "versions").glob("0*.py"))[:4]
"""The newest revision."""

REBUILD = """
import sqlalchemy as sa
from alembic import op

revision = "added"
down_revision = "{head}"


def upgrade() -> None:
    with op.batch_alter_table("tasks", recreate="auto") as batch:
        batch.alter_column("name", existing_type=sa.String(255), type_=sa.String(300))
"""

ORPHANING = """
from alembic import op

revision = "added"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("DELETE FROM tenants")
"""

TASK_OF_VERSION_1 = """
INSERT INTO tasks (id, tenant_id, number, name, task_type, status, reason, dataset_id, spec, fence, failures,
                   total_steps, created_at, updated_at)
VALUES ('a-task', :tenant, 1, 'cat', 'subject', 'TRAINING', 'dispatched', :dataset, '{}', 2, 1, 10, 1.0, 1.0)
"""

ATTEMPT_OF_VERSION_1 = """
INSERT INTO attempts (task_id, fence, tenant_id, node_id, device, handle, supervisor, lease_until, started_at)
VALUES ('a-task', :fence, :tenant, 'node', 'cpu', :handle, 'a-server', 1.0, :at)
"""

BASE_OF_VERSION_1 = """
INSERT INTO bases (name, kind, family, location, sha256, created_at)
VALUES (:name, 'checkpoint', 'sd15', '/x', '', 1.0)
"""

UPGRADE = """
import asyncio, logging, sys
from maquette.db.engine import open_database
from maquette.db.migrate import upgrade

async def main():
    database = open_database(sys.argv[1])
    await upgrade(database)
    await database.dispose()

logging.basicConfig(level=logging.INFO)
asyncio.run(main())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
async def fresh_url(request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path: Path) -> AsyncGenerator[str]:
    """URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/fresh.db"
    else:
        yield await postgres.create("fresh")
        await postgres.drop("fresh")


@pytest.fixture
async def fresh(fresh_url: str) -> AsyncGenerator[Database]:
    """A database without any table, open."""
    database = open_database(fresh_url)
    yield database
    await database.dispose()


@pytest.fixture
def add_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets `upgrade` see one more migration."""

    def add(source: str) -> None:
        folder = shutil.copytree(migrate.MIGRATIONS, tmp_path / "100% migrations")
        (folder / "versions" / "added.py").write_text(source.replace("{head}", HEAD))
        monkeypatch.setattr(migrate, "MIGRATIONS", folder)

    return add


async def as_of(revision: str, fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database as the migrations up to this one made it."""
    with monkeypatch.context() as patch:
        folder = shutil.copytree(migrate.MIGRATIONS, tmp_path / "earlier")
        for file in (folder / "versions").glob("0*.py"):
            if file.name[:4] > revision:
                file.unlink()
        patch.setattr(migrate, "MIGRATIONS", folder)
        await migrate.upgrade(fresh)
    return fresh


@pytest.fixture
async def of_version_1(fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database as the first version made it."""
    return await as_of("0001", fresh, tmp_path, monkeypatch)


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": default_differs}
    )
    return compare_metadata(context, metadata)


def default_differs(
    context: MigrationContext, _found: Any, _column: Any, found: str | None, _default: Any, wanted: str | None
) -> bool | None:
    """None leaves the answer to Alembic, which trips over the brackets it puts around an empty string on SQLite."""
    if context.dialect.name == "postgresql":
        return None
    return (found or "").strip("()'") != (wanted or "").strip("()'")


def check_constraints(connection: Connection) -> set[str]:
    """Names of all check constraints, which Alembic does not compare."""
    query = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'table'",
        "postgresql": "SELECT conname FROM pg_constraint WHERE contype = 'c'",
    }[connection.dialect.name]
    lines = " ".join(connection.execute(text(query)).scalars())
    return {word for word in lines.split() if word.startswith("ck_")}


async def count(conn: AsyncConnection, table: Any) -> int:
    return (await conn.execute(select(func.count()).select_from(table))).scalar_one()


async def version(conn: AsyncConnection) -> str:
    return (await conn.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()


async def test_the_migrated_schema_is_that_of_the_tables(fresh: Database) -> None:
    await migrate.upgrade(fresh)
    async with fresh.read() as conn:
        assert await conn.run_sync(differences) == []
        assert await conn.run_sync(check_constraints) == {
            "ck_tasks_status",
            "ck_models_status",
            "ck_models_verdict",
            "ck_image_tasks_status",
        }


async def test_the_comparison_sees_a_difference(fresh: Database) -> None:
    await migrate.upgrade(fresh)
    async with fresh.migrate() as conn:
        await conn.execute(text("DROP INDEX uq_tasks_tenant_id_number"))
        await conn.execute(text("ALTER TABLE tasks ADD COLUMN colour VARCHAR(8)"))
        await conn.execute(text("ALTER TABLE tenants ADD COLUMN shade VARCHAR(8) DEFAULT 'red'"))
        found = await conn.run_sync(differences)
        assert sorted(difference[0] for difference in found) == ["add_index", "remove_column", "remove_column"]


async def test_a_second_upgrade_changes_nothing(fresh: Database) -> None:
    await migrate.upgrade(fresh)
    async with fresh.write() as conn:
        await make_tenant(conn, "kept")
    await migrate.upgrade(fresh)
    async with fresh.read() as conn:
        assert (await conn.execute(select(tenants.c.name))).scalar_one() == "kept"


async def test_four_processes_upgrade_one_database_at_once_and_say_nothing(fresh_url: str, fresh: Database) -> None:
    upgrades = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", UPGRADE, fresh_url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        for _ in range(4)
    ]
    outputs = [(await process.communicate())[0].decode() for process in upgrades]
    assert (outputs, [process.returncode for process in upgrades]) == ([""] * 4, [0] * 4)
    async with fresh.read() as conn:
        assert await conn.run_sync(differences) == []


async def test_four_servers_of_one_process_upgrade_at_once(fresh_url: str) -> None:
    databases = [open_database(fresh_url) for _ in range(4)]
    await asyncio.gather(*map(migrate.upgrade, databases))
    async with databases[0].read() as conn:
        assert await conn.run_sync(differences) == []
    for database in databases:
        await database.dispose()


async def test_rebuilding_a_table_keeps_the_rows_that_point_to_it(
    database: Database, add_migration: Callable[[str], None]
) -> None:
    async with database.write() as conn:
        await make_task(conn, await make_tenant(conn))
    add_migration(REBUILD)
    await migrate.upgrade(database)
    async with database.read() as conn:
        assert await version(conn) == "added"
        assert (await count(conn, tasks), await count(conn, events)) == (1, 1)


async def test_a_migration_that_would_leave_orphans_changes_nothing(
    database: Database, add_migration: Callable[[str], None]
) -> None:
    async with database.write() as conn:
        await make_task(conn, await make_tenant(conn))
    add_migration(ORPHANING)
    with pytest.raises(Exception, match=r"point to nothing|violates foreign key constraint"):
        await migrate.upgrade(database)
    async with database.read() as conn:
        assert await version(conn) == HEAD
        assert await count(conn, tenants) == 1


async def test_attempts_of_version_1_keep_their_handles_or_are_given_one(of_version_1: Database) -> None:
    database = of_version_1
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        dataset_id = await make_dataset(conn, tenant_id)
        await conn.execute(text(TASK_OF_VERSION_1), {"tenant": tenant_id, "dataset": dataset_id})
        for fence, handle in ((1, "elsewhere/1"), (2, None)):
            await conn.execute(
                text(ATTEMPT_OF_VERSION_1), {"tenant": tenant_id, "fence": fence, "handle": handle, "at": 10.5 * fence}
            )
    await migrate.upgrade(database)
    async with database.read() as conn:
        found = await conn.execute(
            select(attempts.c.handle, attempts.c.launched_at, attempts.c.started_at).order_by(attempts.c.fence)
        )
        assert [tuple(row) for row in found] == [("elsewhere/1", 10.5, 10.5), ("a-task/2", None, 21.0)]
        assert (await conn.execute(select(tasks.c.id, tasks.c.fence))).one() == ("a-task", 2)
        assert await conn.run_sync(differences) == []
        assert "ck_tasks_status" in await conn.run_sync(check_constraints)


async def test_bases_of_version_1_are_numbered_and_named_as_files(of_version_1: Database) -> None:
    database = of_version_1
    async with database.write() as conn:
        for name in ("tiny", "WFChild_v1.0", "mine.ckpt"):
            await conn.execute(text(BASE_OF_VERSION_1), {"name": name})
    await migrate.upgrade(database)
    async with database.read() as conn:
        found = (await conn.execute(select(bases.c.name, bases.c.number, bases.c.file_name))).all()
        assert {row.name: row.file_name for row in found} == {
            "tiny": "tiny.safetensors",
            "WFChild_v1.0": "WFChild_v1.0.ckpt",
            "mine.ckpt": "mine.ckpt",
        }
        assert sorted(row.number for row in found) == [1, 2, 3]
        assert await conn.run_sync(differences) == []
    async with database.write() as conn:
        assert await next_number(conn, ALL_BASES) == 4


async def test_verdicts_name_folders_of_the_server_no_more(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await as_of("0005", fresh, tmp_path, monkeypatch)
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        await make_model(conn, tenant_id, await make_task(conn, tenant_id, status=TaskStatus.SUCCESS))
        await conn.execute(update(models).values(judged_with="torch 2 on /srv/bases/tiny"))
    await migrate.upgrade(database)
    async with database.read() as conn:
        assert (await conn.execute(select(models.c.judged_with, models.c.lost_workers))).one() == (None, 0)


async def test_a_newer_schema_is_refused_in_words(database: Database) -> None:
    async with database.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UnusableDatabase, match=r"does not know the database's schema .*9999"):
        await migrate.upgrade(database)
