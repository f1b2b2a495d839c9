"""What is told of the server's own state."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from maquette.core.drawing import BaseUse, DrawRequest
from maquette.db.engine import Database
from maquette.server.app import create_app
from maquette.server.settings import Settings
from maquette.serving.base import DrawJob, PoolSettings, WorkerLost
from maquette.serving.local import LocalPool
from maquette.storage.base import Storage
from maquette.testing.api import Api
from maquette.testing.factories import SHA256

WORKING = ("-m", "maquette.testing.stand_in_worker")
DYING = ("-c", "raise SystemExit(1)")
JOB = DrawJob(
    base=BaseUse("/bases/tiny", SHA256),
    request=DrawRequest(prompt="a cat", width=16, height=16, steps=4, guidance_scale=7.0, seed=1),
)


@asynccontextmanager
async def drawing_with(program: tuple[str, ...], root: Path, storage: Storage) -> AsyncGenerator[LocalPool]:
    """A pool of one worker that runs this program."""
    pool = LocalPool(root, storage, devices=("cpu",), settings=PoolSettings(threads=1, program=program))
    await pool.start()
    try:
        async with asyncio.timeout(60):
            yield pool
    finally:
        await pool.close()


async def readiness(api: Api) -> dict[str, Any]:
    response = await api.http.get("/readyz")
    assert response.status_code == 200
    return response.json()


async def test_a_pool_is_idle_then_ready(
    settings: Settings, database: Database, storage: Storage, tmp_path: Path
) -> None:
    async with drawing_with(WORKING, tmp_path / "pool", storage) as pool:
        anybody = Api(create_app(settings, database, storage, pool), "no key")
        assert await readiness(anybody) == {
            "drawing": "idle: workers start with the first picture",
            "status": "ok",
        }
        await pool.draw(JOB, lambda _step, _steps: None)
        assert await readiness(anybody) == {"drawing": "ready", "status": "ok"}


async def test_a_pool_whose_workers_die_is_down_and_the_api_works_on(
    settings: Settings, database: Database, storage: Storage, tmp_path: Path
) -> None:
    async with drawing_with(DYING, tmp_path / "pool", storage) as pool:
        anybody = Api(create_app(settings, database, storage, pool), "no key")
        job = asyncio.create_task(pool.draw(JOB, lambda _step, _steps: None))
        while (told := await readiness(anybody))["drawing"].startswith("idle"):
            await asyncio.sleep(0.01)
        assert told == {
            "drawing": "down: pictures wait, and no worker is ready to draw them; if that lasts, the server's log says"
            " why",
            "status": "ok",
        }
        await pool.close()
        with pytest.raises(WorkerLost):
            await job


async def test_without_a_pool_nothing_is_said_of_drawing(api: Api) -> None:
    assert await readiness(api) == {"status": "ok"}
    assert (await api.http.get("/healthz")).json() == {"status": "ok"}
