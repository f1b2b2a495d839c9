"""A creating call that is sent again under its key creates nothing again."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from maquette.db.engine import Database
from maquette.db.tables import idempotency_keys
from maquette.server.idempotency import Idempotency, forget_old_keys
from maquette.server.training.schemas import CreatedTask
from maquette.testing.api import Api, Traces, reason
from maquette.testing.factories import SHA256, make_tenant

KEY = {"Idempotency-Key": "5f0c"}


async def body(api: Api, **changes: Any) -> dict[str, Any]:
    items = [{"assets_id": await api.upload()}]
    asked = {"name": "cat-01", "base_model": "tiny", "width": 128, "height": 128, "image_dataset_items": items}
    return {**asked, **changes}


async def create(api: Api, asked: dict[str, Any], task_type: str = "subject") -> httpx.Response:
    return await api.http.post(f"/v3/training/{task_type}", json=asked, headers=KEY)


async def test_the_same_request_gets_the_same_task(api: Api, traces: Traces) -> None:
    asked = await body(api)
    first = await create(api, asked)
    before = await traces.count()
    again = await create(api, asked)
    assert (again.status_code, again.content) == (200, first.content)
    assert await traces.count() == before


async def test_the_same_request_gets_the_same_upload_address(api: Api, traces: Traces) -> None:
    asked = {"file_extension": "png"}
    first = await api.http.post("/v3/assets/training_dataset", json=asked, headers=KEY)
    before = await traces.count()
    again = await api.http.post("/v3/assets/training_dataset", json=asked, headers=KEY)
    assert (again.status_code, again.content) == (200, first.content)
    assert await traces.count() == before


async def test_requests_at_the_same_moment_create_one_task(api: Api) -> None:
    asked = await body(api)
    answers = await asyncio.gather(*(create(api, asked) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    (task_id,) = {answer.json()["task_id"] for answer in answers}
    listed = (await api.http.get("/v3/training")).json()["tasks"]
    assert [task["task_id"] for task in listed] == [task_id]


async def test_another_body_under_the_key_is_refused(api: Api, traces: Traces) -> None:
    asked = await body(api)
    await create(api, asked)
    before = await traces.count()
    refused = await create(api, {**asked, "name": "cat-02"})
    assert reason(refused) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await traces.count() == before


async def test_another_call_under_the_key_is_refused(api: Api) -> None:
    asked = await body(api)
    await create(api, asked)
    assert reason(await create(api, asked, "style")) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    refused = await create(api, await body(api, base_model="nosuch"))
    assert refused.status_code == 400
    assert (await create(api, await body(api))).status_code == 200


async def test_tenants_keys_never_meet(api: Api, stranger: Api) -> None:
    mine, theirs = await create(api, await body(api)), await create(stranger, await body(stranger))
    assert mine.json()["task_id"] != theirs.json()["task_id"]


async def test_without_a_key_each_request_creates(api: Api) -> None:
    asked = await body(api)
    answers = [await api.http.post("/v3/training/subject", json=asked) for _ in range(2)]
    assert len({answer.json()["task_id"] for answer in answers}) == 2


async def test_a_forgotten_key_creates_anew(api: Api, database: Database) -> None:
    asked = await body(api)
    first = await create(api, asked)
    async with database.write() as conn:
        await forget_old_keys(conn, age=3600.0)
    assert (await create(api, asked)).content == first.content
    async with database.write() as conn:
        await forget_old_keys(conn, age=0.0)
    assert (await create(api, asked)).content != first.content


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_key_is_not_forgotten_while_a_request_holds_it(database: Database) -> None:
    """SQLite has one writer at a time."""
    async with database.write() as conn:
        once = Idempotency(await make_tenant(conn), "5f0c", SHA256)
        assert await once.claim(conn, CreatedTask) is None
        await once.remember(conn, CreatedTask("first"))
    async with database.write() as conn, database.write() as sweeper:
        assert await once.claim(conn, CreatedTask) == CreatedTask("first")
        free = select(idempotency_keys.c.key).with_for_update(skip_locked=True)
        assert (await sweeper.execute(free)).all() == []


async def test_null_is_a_key(api: Api) -> None:
    asked, key = {"file_extension": "png"}, {"Idempotency-Key": "null"}
    first, again = [await api.http.post("/v3/assets/training_dataset", json=asked, headers=key) for _ in range(2)]
    assert first.content == again.content


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
async def test_an_unusable_key_is_refused(api: Api, key: str) -> None:
    answer = await api.http.post(
        "/v3/assets/training_dataset", json={"file_extension": "png"}, headers={"Idempotency-Key": key}
    )
    assert reason(answer) == (400, "INVALID_REQUEST_BODY")
    assert "Idempotency-Key" in answer.json()["message"]
