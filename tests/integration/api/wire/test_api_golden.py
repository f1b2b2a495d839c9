"""The published list, byte for byte as it leaves a real server."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from maquette.core.lifecycle import ModelStatus, Reason, TaskStatus
from maquette.core.specs import TaskType
from maquette.db.engine import Database
from maquette.db.move import move_model
from maquette.db.tables import models, tasks
from maquette.server.access.repository import tenant_id
from maquette.testing.api import Api
from maquette.testing.factories import make_model, make_task

PUBLISHED = (Path(__file__).parents[3] / "golden" / "list_training.json").read_text()


async def make_published_rows(database: Database) -> None:
    """The published example's two tasks."""
    async with database.write() as conn:
        owner = await tenant_id(conn, "first")
        await make_task(conn, owner, name="ink-style", task_type=TaskType.STYLE, status=TaskStatus.FAILED)
        succeeded = await make_task(conn, owner, name="cat-01", status=TaskStatus.SUCCESS)
        model_id = await make_model(conn, owner, succeeded)
        assert await move_model(
            conn,
            owner,
            model_id,
            source=ModelStatus.DEPLOYING,
            to=ModelStatus.SERVING,
            reason=Reason.PARITY_PASSED,
        )


async def with_our_values(database: Database) -> dict[str, Any]:
    """The published example with the ids, instants and the model's name that the database holds."""
    page = json.loads(PUBLISHED)
    async with database.read() as conn:
        rows = (await conn.execute(select(tasks).order_by(tasks.c.number.desc()))).all()
        name = await conn.scalar(select(models.c.name))
    for task, row in zip(page["tasks"], rows, strict=True):
        task |= {"task_id": row.id, "created_at": int(row.created_at)}
    page["tasks"][0]["models"][0]["model_name"] = name
    page["pagination"]["next_cursor"] = f"c_{10**15 + rows[-1].number}"
    return page


async def test_the_list_leaves_a_real_server_as_published(port: int, api: Api, database: Database) -> None:
    await make_published_rows(database)
    url = f"http://127.0.0.1:{port}/v3/training?pagination.limit=10&pagination.cursor="
    async with httpx.AsyncClient(headers={"authorization": api.http.headers["authorization"]}) as http:
        response = await http.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    expected = json.dumps(await with_our_values(database), separators=(",", ":"), ensure_ascii=False)
    assert response.content == expected.encode()
    # The example's own bytes differ in white space and values alone.
    assert re.findall(r'"(\w+)":', expected) == re.findall(r'"(\w+)":', PUBLISHED)
