"""The list, to the letter of the published example."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from maquette.core.lifecycle import ModelStatus, Reason, TaskStatus
from maquette.core.specs import TaskType
from maquette.db.engine import Database
from maquette.db.move import move_model
from maquette.server.access.repository import tenant_id
from maquette.testing.api import Api
from maquette.testing.factories import make_model, make_task

GOLDEN = Path(__file__).parents[2] / "golden"
PUBLISHED = json.loads((GOLDEN / "list_training.json").read_text())
PUBLISHED_STATUS = json.loads((GOLDEN / "training_status.json").read_text())

FORMS = {
    "task_id": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "task_type": "subject|style",
    "task_status": "UNKNOWN|QUEUING|TRAINING|SUCCESS|CANCELED|FAILED",
    "model_name": r"model_\d+_[0-9A-F]{10}\.safetensors",
    "model_status": "DEPLOYING|SERVING",
    "model_type": "lora",
    "next_cursor": r"c_\d+",
}
"""Strings that have a published form or a closed set of values."""


def assert_same_shape(answer: Any, published: Any, field: str = "") -> None:
    """Same keys in the same order, same types, published forms; values may differ."""
    assert type(answer) is type(published), field
    if isinstance(answer, dict):
        assert list(answer) == list(published), field
        for key in answer:
            assert_same_shape(answer[key], published[key], key)
    elif isinstance(answer, list):
        assert len(answer) == len(published), field
        for ours, theirs in zip(answer, published, strict=True):
            assert_same_shape(ours, theirs, field)
    elif field in FORMS:
        assert re.fullmatch(FORMS[field], answer), field


async def tenant(database: Database, name: str) -> str:
    async with database.write() as conn:
        return await tenant_id(conn, name)


async def make(database: Database, owner: str, **wanted: Any) -> str:
    async with database.write() as conn:
        return await make_task(conn, owner, **wanted)


async def make_published_rows(database: Database) -> tuple[str, str]:
    """The published example's two tasks; answers their ids, newest first."""
    owner = await tenant(database, "first")
    failed = await make(database, owner, name="ink-style", task_type=TaskType.STYLE, status=TaskStatus.FAILED)
    succeeded = await make(database, owner, name="cat-01", status=TaskStatus.SUCCESS)
    async with database.write() as conn:
        model_id = await make_model(conn, owner, succeeded)
    async with database.write() as conn:
        assert await move_model(
            conn,
            owner,
            model_id,
            source=ModelStatus.DEPLOYING,
            to=ModelStatus.SERVING,
            reason=Reason.PARITY_PASSED,
        )
    return succeeded, failed


async def ids(api: Api, query: str = "") -> list[str]:
    response = await api.http.get(f"/v3/training?{query}")
    assert response.status_code == 200, response.text
    return [task["task_id"] for task in response.json()["tasks"]]


@pytest.mark.parametrize("path", ["/v3/training", "/v3/training/", "/training"])
async def test_the_published_example(api: Api, database: Database, path: str) -> None:
    newest_first = await make_published_rows(database)
    response = await api.http.get(f"{path}?pagination.limit=10&pagination.cursor=c_0")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = json.loads(response.content)
    assert_same_shape(answer, PUBLISHED)
    assert [task["task_id"] for task in answer["tasks"]] == list(newest_first)
    for ours, theirs in zip(answer["tasks"], PUBLISHED["tasks"], strict=True):
        assert {key: ours[key] for key in ("task_name", "task_type", "task_status")} == {
            key: theirs[key] for key in ("task_name", "task_type", "task_status")
        }


@pytest.mark.parametrize("path", ["/v3/training/subject", "/v3/training/style", "/training/subject"])
async def test_the_published_status(api: Api, database: Database, path: str) -> None:
    succeeded, _ = await make_published_rows(database)
    response = await api.http.get(path, params={"task_id": succeeded})
    assert_same_shape(json.loads(response.content), PUBLISHED_STATUS)
    assert response.json()["task_id"] == succeeded
    assert response.json()["extra"] == PUBLISHED_STATUS["extra"]


async def test_nothing_is_an_empty_page(api: Api) -> None:
    response = await api.http.get("/v3/training")
    assert response.content == b'{"tasks":[],"pagination":{"next_cursor":""}}'


async def test_a_walk_sees_every_task_once_whatever_happens_meanwhile(api: Api, database: Database) -> None:
    owner = await tenant(database, "first")
    tasks = [await make(database, owner) for _ in range(7)][::-1]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await api.http.get(f"/v3/training?pagination.limit=3&pagination.cursor={cursor}")).json()
        cursor = page["pagination"]["next_cursor"]
        if not page["tasks"]:
            break
        assert re.fullmatch(r"c_\d{16}", cursor)
        seen += [task["task_id"] for task in page["tasks"]]
        await make(database, owner)
    assert seen == tasks
    assert cursor == ""


async def test_offsets_that_clients_compute(api: Api, database: Database) -> None:
    owner = await tenant(database, "first")
    tasks = [await make(database, owner) for _ in range(4)][::-1]
    assert await ids(api, "pagination.limit=2&pagination.cursor=c_0") == tasks[:2]
    assert await ids(api, "pagination.limit=2&pagination.cursor=c_2") == tasks[2:]
    assert await ids(api, "pagination.limit=2&pagination.cursor=c_c_1") == tasks[1:3]
    assert await ids(api, "pagination.cursor=c_10") == []
    assert await ids(api, "pagination[limit]=1&pagination[cursor]=c_1") == tasks[1:2]
    assert await ids(api, "pagination%5Blimit%5D=1") == tasks[:1]
    assert await ids(api, "pagination.limit=&pagination.cursor=&task_type=") == tasks


async def test_the_type_filter(api: Api, database: Database) -> None:
    owner = await tenant(database, "first")
    kinds = [TaskType.SUBJECT, TaskType.STYLE, TaskType.SUBJECT]
    first, style, last = [await make(database, owner, task_type=kind) for kind in kinds]
    assert await ids(api, "task_type=subject") == [last, first]
    assert await ids(api, "task_type=style") == [style]
    page = (await api.http.get("/v3/training?task_type=subject&pagination.limit=1")).json()
    assert await ids(api, f"task_type=subject&pagination.cursor={page['pagination']['next_cursor']}") == [first]


@pytest.mark.parametrize("status", TaskStatus)
async def test_every_status_reads_as_published(api: Api, database: Database, status: TaskStatus) -> None:
    owner = await tenant(database, "first")
    task_id = await make(database, owner, status=status)
    if status is TaskStatus.SUCCESS:
        async with database.write() as conn:
            await make_model(conn, owner, task_id)
    (task,) = (await api.http.get("/v3/training")).json()["tasks"]
    answer = (await api.http.get("/v3/training/style", params={"task_id": task_id})).json()
    assert task["task_status"] == answer["task_status"] == status
    assert task["models"] == answer["models"]
    assert [model["model_status"] for model in task["models"]] == (
        ["DEPLOYING"] if status is TaskStatus.SUCCESS else []
    )
    assert ("failed_reason" in answer["extra"]) == (status is TaskStatus.FAILED)


async def test_a_second_tenant_sees_nothing(api: Api, stranger: Api, database: Database) -> None:
    succeeded, _ = await make_published_rows(database)
    assert await ids(stranger) == []
    assert await ids(stranger, "pagination.cursor=c_9999999999999999") == []
    unknown = "00000000-0000-4000-8000-000000000000"
    calls = [
        ("GET", "/v3/training/subject?task_id={}"),
        ("GET", "/v3/training/style?task_id={}"),
        ("GET", "/training/subject?task_id={}"),
        ("GET", "/v3/training/{}"),
        ("GET", "/v3/training/{}/events"),
        ("GET", "/v3/training/{}/metrics"),
        ("GET", "/v3/training/{}/weights"),
        ("GET", "/v3/training/{}/checkpoints"),
        ("GET", "/v3/training/{}/checkpoints/4/weights"),
        ("GET", "/v3/training/{}/checkpoints/4/samples/0"),
        ("POST", "/v3/training/{}/cancel"),
    ]
    for method, path in calls:
        answers = {
            (await stranger.http.request(method, path.format(task_id))).content
            for task_id in (succeeded, unknown, "nonsense", succeeded.upper(), f"{succeeded}%00", "%C3%A9")
        }
        assert answers == {b'{"code":404,"reason":"TASK_NOT_FOUND","message":"task not found","metadata":{}}'}, path
    assert len(await ids(api)) == 2
