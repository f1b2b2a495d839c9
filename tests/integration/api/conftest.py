"""The API over a real database and a real storage, in this process."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from litestar import Litestar

from maquette.db.engine import Database
from maquette.server.access import service as access
from maquette.server.app import create_app, state_of
from maquette.server.bases import service as bases
from maquette.server.bases.repository import Base
from maquette.server.settings import Settings
from maquette.storage.base import Storage
from maquette.storage.object_store import open_storage
from maquette.testing.api import Api, Traces
from maquette.testing.factories import SHA256


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with every default."""
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def storage() -> Storage:
    """An empty storage."""
    return open_storage("memory://")


@pytest.fixture(scope="session")
def built() -> dict[object, Litestar]:
    """Applications, by what of their settings shapes them; what they work on changes from test to test."""
    return {}


@pytest.fixture
async def app(settings: Settings, database: Database, storage: Storage, built: dict[object, Litestar]) -> Litestar:
    """The application over an empty database in which one base, `tiny`, is registered.

    It is built once: that takes longer than most of the tests.
    """
    async with database.write() as conn:
        base = Base(name="tiny", kind="checkpoint", family="sd15", location="/bases/tiny", sha256=SHA256)
        await bases.register(conn, base)
    shape = (settings.max_body_bytes, settings.max_body_with_picture, settings.cors_origins)
    if shape not in built:
        built[shape] = create_app(settings, database, storage)
    built[shape].state.update(state_of(settings, database, storage))
    return built[shape]


@pytest.fixture
async def api(app: Litestar, database: Database) -> AsyncGenerator[Api]:
    """The API as the first tenant uses it."""
    async with database.write() as conn:
        key = await access.create_key(conn, "first")
    tenant = Api(app, f"Bearer {key}")
    yield tenant
    await tenant.http.aclose()


@pytest.fixture
async def stranger(app: Litestar, database: Database) -> AsyncGenerator[Api]:
    """The API as a second tenant uses it."""
    async with database.write() as conn:
        key = await access.create_key(conn, "second")
    tenant = Api(app, f"Bearer {key}")
    yield tenant
    await tenant.http.aclose()


@pytest.fixture
def traces(database: Database, storage: Storage) -> Traces:
    """Counts what was left behind."""
    return Traces(database, storage)
