"""The API as tests use it: a tenant's calls, pictures to send, and a count of what calls leave behind."""

from base64 import b64encode
from io import BytesIO
from typing import Any, cast

import httpx
from litestar import Litestar
from PIL import Image
from sqlalchemy import func, select

from maquette.db.engine import Database
from maquette.db.tables import metadata
from maquette.storage.base import Storage

HOST = "http://maquette.test"


def picture(kind: str = "png", size: tuple[int, int] = (64, 48), colour: str = "red") -> bytes:
    """A small picture's bytes."""
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


class Api:
    """The API as one tenant uses it."""

    def __init__(self, app: Litestar, key: str) -> None:
        transport = httpx.ASGITransport(cast("Any", app), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url=HOST, headers={"authorization": key})

    async def upload(self, data: bytes | None = None, extension: str = "png") -> str:
        """Upload a picture; answers its asset id."""
        asset = await self.asset(extension)
        response = await self.http.put(asset["upload_url"], content=data or picture())
        assert (response.status_code, response.content) == (200, b"")
        return asset["assets_id"]

    async def asset(self, extension: str = "png") -> dict[str, Any]:
        """An asset that waits for its bytes."""
        response = await self.http.post("/v3/assets/training_dataset", json={"file_extension": extension})
        assert response.status_code == 200, response.text
        return response.json()

    async def train(self, task_type: str = "subject", **changes: Any) -> httpx.Response:
        """Ask for a training of one new picture; `changes` replace fields, None drops one."""
        body = {"name": "cat-01", "base_model": "tiny", "width": 128, "height": 128, **changes}
        if "image_dataset_items" not in changes:
            body["image_dataset_items"] = [{"assets_id": await self.upload()}]
        return await self.http.post(f"/v3/training/{task_type}", json=body)

    async def task(self, task_type: str = "subject", **changes: Any) -> str:
        """A new task's id."""
        response = await self.train(task_type, **changes)
        assert response.status_code == 200, response.text
        return response.json()["task_id"]

    async def draw(self, call: str = "txt2img", *, extra: Any = None, **changes: Any) -> httpx.Response:
        """Ask for a small picture of the base `tiny`; `changes` replace fields of the request, None drops one."""
        asked: dict[str, Any] = {"model_name": "tiny", "prompt": "a cat", "width": 128, "height": 128, **changes}
        if call == "img2img" and "image_base64" not in changes:
            asked["image_base64"] = b64encode(picture()).decode()
        return await self.http.post(f"/v3/async/{call}", json={"extra": extra, "request": asked})

    async def image_task(self, call: str = "txt2img", *, extra: Any = None, **changes: Any) -> str:
        """A new image task's id."""
        response = await self.draw(call, extra=extra, **changes)
        assert response.status_code == 200, response.text
        return response.json()["task_id"]

    async def result(self, task_id: str) -> dict[str, Any]:
        """The published answer about an image task."""
        response = await self.http.get(f"/v3/async/task-result?task_id={task_id}")
        assert response.status_code == 200, response.text
        return response.json()


class Traces:
    """What calls leave behind."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    async def count(self) -> dict[str, int]:
        """Rows of every table, and objects."""
        async with self._database.read() as conn:
            counts = {
                table.name: (await conn.execute(select(func.count()).select_from(table))).scalar_one()
                for table in metadata.sorted_tables
            }
        return {**counts, "objects": len([info async for info in self._storage.list("")])}


def reason(response: httpx.Response) -> tuple[int, str]:
    """Status and reason of an error, after a look at its envelope."""
    body = response.json()
    assert list(body) == ["code", "reason", "message", "metadata"]
    assert body["code"] == response.status_code
    assert body["message"]
    assert body["metadata"] == {}
    return response.status_code, body["reason"]
