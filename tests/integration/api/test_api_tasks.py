"""Our own calls about one task."""

import asyncio
import hashlib
from typing import Any

import pytest
from sqlalchemy import insert, update

from maquette.core.lifecycle import Reason, TaskStatus
from maquette.core.rundir import FileRecord
from maquette.db.engine import Database
from maquette.db.move import move_task
from maquette.db.now import now_sql
from maquette.db.tables import attempts, checkpoints, tasks
from maquette.server.access.repository import tenant_id
from maquette.server.models import service as models
from maquette.storage.base import Storage
from maquette.testing.api import Api, Traces, reason
from maquette.testing.factories import make_task

WEIGHTS = bytes(range(256)) * 10_000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
FINISHED_AT = 1_750_000_540
NAME = f"model_{FINISHED_AT}_{SHA256[:10].upper()}.safetensors"


async def tenant(database: Database, name: str = "first") -> str:
    async with database.write() as conn:
        return await tenant_id(conn, name)


async def make(database: Database, **wanted: Any) -> str:
    owner = await tenant(database)
    async with database.write() as conn:
        return await make_task(conn, owner, **wanted)


async def change(database: Database, task_id: str, **values: Any) -> None:
    async with database.write() as conn:
        await conn.execute(update(tasks).where(tasks.c.id == task_id).values(**values))


async def detail(api: Api, task_id: str) -> dict[str, Any]:
    response = await api.http.get(f"/v3/training/{task_id}")
    assert response.status_code == 200, response.text
    assert b"null" not in response.content
    return response.json()


async def make_trained(database: Database, storage: Storage) -> str:
    """A task whose LoRA is stored."""
    task_id = await make(database, status=TaskStatus.SUCCESS)
    key = f"tasks/{task_id}/1/output/lora.safetensors"
    await storage.put(key, WEIGHTS)
    owner = await tenant(database)
    async with database.write() as conn:
        await models.birth(
            conn,
            tenant_id=owner,
            task_id=task_id,
            finished_at=FINISHED_AT,
            object_key=key,
            sample_key=f"tasks/{task_id}/1/samples/final.png",
            size=len(WEIGHTS),
            sha256=SHA256,
        )
    return task_id


async def test_a_new_task_in_detail(api: Api) -> None:
    task = await detail(api, await api.task(expert_setting={"max_train_steps": 40, "seed": 7}))
    assert list(task) == [
        "task_name",
        "task_id",
        "task_type",
        "task_status",
        "created_at",
        "models",
        "reason",
        "message",
        "progress_percent",
        "step",
        "total_steps",
        "eta_seconds",
        "cancel_requested",
        "queue",
        "attempts",
        "base_model",
        "width",
        "height",
        "settings",
        "sample",
        "pictures",
    ]
    assert (task["task_status"], task["reason"], task["message"]) == ("QUEUING", "created", "")
    assert (task["step"], task["total_steps"], task["progress_percent"]) == (0, 40, 0)
    assert (task["settings"]["seed"], task["settings"]["max_train_steps"]) == (7, 40)
    assert (task["sample"]["seed"], task["sample"]["prompt"]) == (7, "a photo of ohwx person")
    assert task["base_model"] == "tiny"
    assert (task["width"], task["height"]) == (128, 128)
    assert task["queue"] == {"position": 1, "waiting_for": "a free device"}
    assert task["pictures"][0]["caption"] == "a photo of ohwx person"


async def test_the_place_in_the_queue_counts_every_tenants_tasks(api: Api, stranger: Api, database: Database) -> None:
    await stranger.task()
    mine = await api.task()
    await stranger.task()
    assert (await detail(api, mine))["queue"] == {"position": 2, "waiting_for": "tasks that were created earlier"}


async def test_a_task_that_backs_off_says_so(api: Api, database: Database) -> None:
    task_id = await make(database, status=TaskStatus.TRAINING)
    owner = await tenant(database)
    async with database.write() as conn:
        await move_task(
            conn,
            owner,
            task_id,
            source=TaskStatus.TRAINING,
            to=TaskStatus.QUEUING,
            reason=Reason.WORKER_LOST,
            message="The training process was lost.",
            values={"not_before": now_sql(conn) + 30},
        )
    task = await detail(api, task_id)
    assert task["queue"]["waiting_for"].startswith("another attempt in ")
    assert task["queue"]["waiting_for"].endswith(" s, after the last one ended: The training process was lost.")


async def test_progress_is_in_whole_percents_and_100_only_at_success(api: Api, database: Database) -> None:
    task_id = await make(database, status=TaskStatus.TRAINING)
    for step, percent in ((0, 0), (1, 33), (2, 66), (3, 99)):
        await change(database, task_id, step=step, total_steps=3, eta_seconds=3 - step)
        answer = (await api.http.get("/v3/training/subject", params={"task_id": task_id})).json()
        assert answer["extra"] == {"eta_relative": 3 - step, "progress_percent": percent}
        assert (await detail(api, task_id))["progress_percent"] == percent


async def test_attempts_are_told(api: Api, database: Database) -> None:
    task_id = await make(database, status=TaskStatus.TRAINING)
    owner = await tenant(database)
    async with database.write() as conn:
        for fence, end in ((1, {"ended_at": 20.5, "reason": "worker_lost"}), (2, {})):
            await conn.execute(
                insert(attempts).values(
                    task_id=task_id,
                    fence=fence,
                    tenant_id=owner,
                    node_id="n",
                    device="cpu",
                    handle=f"{task_id}/{fence}",
                    supervisor="s",
                    lease_until=0,
                    started_at=10.0 * fence,
                    **end,
                )
            )
    assert (await detail(api, task_id))["attempts"] == [
        {"attempt": 1, "device": "cpu", "started_at": 10, "ended_at": 20, "reason": "worker_lost"},
        {"attempt": 2, "device": "cpu", "started_at": 20},
    ]


async def test_a_failure_says_why(api: Api, database: Database) -> None:
    task_id = await make(database, status=TaskStatus.TRAINING)
    owner = await tenant(database)
    async with database.write() as conn:
        await move_task(
            conn,
            owner,
            task_id,
            source=TaskStatus.TRAINING,
            to=TaskStatus.FAILED,
            reason=Reason.BAD_DATASET,
            message="A picture could not be used: 03-abc.png",
        )
    answer = (await api.http.get("/v3/training/subject", params={"task_id": task_id})).json()
    assert answer["extra"]["failed_reason"] == "A picture could not be used: 03-abc.png"
    task = await detail(api, task_id)
    assert (task["reason"], task["message"]) == ("bad_dataset", "A picture could not be used: 03-abc.png")
    assert task["finished_at"] >= task["created_at"]
    assert "queue" not in task


async def test_cancelling_what_waits_ends_it_at_once(api: Api, traces: Traces) -> None:
    task_id = await api.task()
    before = await traces.count()
    for _ in range(2):
        response = await api.http.post(f"/v3/training/{task_id}/cancel")
        assert (response.status_code, response.json()) == (200, {"task_id": task_id, "task_status": "CANCELED"})
    task = await detail(api, task_id)
    assert (task["task_status"], task["reason"], task["cancel_requested"]) == ("CANCELED", "canceled", True)
    assert (await traces.count())["events"] == before["events"] + 1


async def test_cancelling_what_trains_is_a_request(api: Api, database: Database, traces: Traces) -> None:
    task_id = await make(database, status=TaskStatus.TRAINING)
    before = await traces.count()
    for _ in range(2):
        response = await api.http.post(f"/v3/training/{task_id}/cancel")
        assert (response.status_code, response.json()) == (200, {"task_id": task_id, "task_status": "TRAINING"})
    task = await detail(api, task_id)
    assert (task["task_status"], task["cancel_requested"]) == ("TRAINING", True)
    assert (await traces.count())["events"] == before["events"] + 1
    page = (await api.http.get(f"/v3/training/{task_id}/events")).json()
    assert page["events"][-1]["kind"] == "cancel_requested"


async def test_cancels_at_the_same_moment_are_one_request(api: Api, database: Database, traces: Traces) -> None:
    task_id = await make(database, status=TaskStatus.TRAINING)
    before = await traces.count()
    answers = await asyncio.gather(*(api.http.post(f"/v3/training/{task_id}/cancel") for _ in range(5)))
    assert [answer.json() for answer in answers] == [{"task_id": task_id, "task_status": "TRAINING"}] * 5
    assert (await traces.count())["events"] == before["events"] + 1


@pytest.mark.parametrize("status", [TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELED])
async def test_cancelling_what_has_ended_changes_nothing(
    api: Api, database: Database, traces: Traces, status: TaskStatus
) -> None:
    task_id = await make(database, status=status)
    before = await traces.count()
    response = await api.http.post(f"/v3/training/{task_id}/cancel", json={"anything": None})
    assert (response.status_code, response.json()) == (200, {"task_id": task_id, "task_status": status})
    assert not (await detail(api, task_id))["cancel_requested"]
    assert await traces.count() == before


async def test_a_cancel_that_races_with_the_dispatch_is_never_lost(api: Api, database: Database) -> None:
    owner = await tenant(database)

    async def dispatch(task_id: str) -> None:
        async with database.write() as conn:
            await move_task(
                conn,
                owner,
                task_id,
                source=TaskStatus.QUEUING,
                to=TaskStatus.TRAINING,
                reason=Reason.DISPATCHED,
            )

    for _ in range(10):
        task_id = await make(database)
        response, _ = await asyncio.gather(api.http.post(f"/v3/training/{task_id}/cancel"), dispatch(task_id))
        task = await detail(api, task_id)
        assert task["cancel_requested"]
        assert response.json()["task_status"] == task["task_status"]
        assert task["task_status"] in {"CANCELED", "TRAINING"}


async def test_events_in_pages(api: Api, database: Database) -> None:
    task_id = await make(database, status=TaskStatus.FAILED)
    url = f"/v3/training/{task_id}/events"
    page = (await api.http.get(url, params={"limit": 2})).json()
    assert [event["number"] for event in page["events"]] == [1, 2]
    assert [event["data"]["to"] for event in page["events"]] == ["QUEUING", "TRAINING"]
    assert page["next_after"] == 2
    page = (await api.http.get(url, params={"after": page["next_after"]})).json()
    assert [event["data"]["to"] for event in page["events"]] == ["FAILED"]
    assert (await api.http.get(url, params={"after": 3})).json() == {"events": [], "next_after": 3}
    for query in ("after=-1", "after=x", "limit=0", "limit=1001"):
        assert reason(await api.http.get(f"{url}?{query}")) == (400, "INVALID_REQUEST_BODY")


async def test_weights_under_their_published_name(api: Api, database: Database, storage: Storage) -> None:
    task_id = await make_trained(database, storage)
    response = await api.http.get(f"/v3/training/{task_id}/weights")
    assert response.status_code == 200
    assert response.headers["content-disposition"] == f'attachment; filename="{NAME}"'
    assert response.headers["content-length"] == str(len(WEIGHTS))
    assert response.content == WEIGHTS
    (task,) = (await api.http.get("/v3/training")).json()["tasks"]
    assert task["models"] == [{"model_name": NAME, "model_status": "DEPLOYING"}]


async def test_weights_in_kohyas_layout(api: Api, database: Database, storage: Storage) -> None:
    task_id = await make_trained(database, storage)
    url = f"/v3/training/{task_id}/weights"
    await storage.put(f"tasks/{task_id}/1/output/lora-kohya.safetensors", b"as kohya does")
    assert (await api.http.get(url, params={"layout": "kohya"})).content == b"as kohya does"
    assert (await api.http.get(url, params={"layout": "diffusers"})).content == WEIGHTS
    assert reason(await api.http.get(url, params={"layout": "comfyui"})) == (400, "INVALID_REQUEST_BODY")


async def test_a_layout_that_an_earlier_version_did_not_write_is_told(
    api: Api, database: Database, storage: Storage
) -> None:
    task_id = await make_trained(database, storage)
    response = await api.http.get(f"/v3/training/{task_id}/weights", params={"layout": "kohya"})
    assert reason(response) == (409, "CONFLICT")
    assert response.json()["message"] == "layout: this LoRA was not written as kohya"


async def keep(database: Database, storage: Storage, task_id: str, fence: int, step: int, **files: bytes) -> None:
    """A stored checkpoint; files by their names without endings."""
    prefix = f"tasks/{task_id}/{fence}/checkpoints/step-{step:06d}"
    records: list[FileRecord] = []
    for name, content in files.items():
        path = f"{name}.safetensors" if name == "adapter" else f"{name.replace('_', '-')}.png"
        await storage.put(f"{prefix}/{path}", content)
        records.append(FileRecord(path, len(content), hashlib.sha256(content).hexdigest()))
    owner = await tenant(database)
    async with database.write() as conn:
        await conn.execute(
            insert(checkpoints).values(
                task_id=task_id,
                fence=fence,
                step=step,
                tenant_id=owner,
                prefix=prefix,
                files=records,
                created_at=now_sql(conn),
            )
        )


async def test_checkpoints_are_listed_and_downloaded_as_loras_with_their_pictures(
    api: Api, database: Database, storage: Storage
) -> None:
    task_id = await make(database, status=TaskStatus.TRAINING)
    url = f"/v3/training/{task_id}/checkpoints"
    assert (await api.http.get(url)).json() == {"checkpoints": []}
    await keep(database, storage, task_id, 1, 4, adapter=b"lost and taken anew")
    await keep(database, storage, task_id, 2, 4, adapter=b"four", sample_0=b"a cat", sample_1=b"any cat")
    await keep(database, storage, task_id, 2, 8, adapter=WEIGHTS)
    first, second = (await api.http.get(url)).json()["checkpoints"]
    assert (first["step"], first["size"], first["samples"]) == (4, 4, 2)
    assert (second["step"], second["sha256"], second["samples"]) == (8, SHA256, 0)
    lora = await api.http.get(f"{url}/8/weights")
    assert lora.content == WEIGHTS
    assert lora.headers["content-disposition"] == f'attachment; filename="{task_id}-step-8.safetensors"'
    assert (await api.http.get(f"{url}/4/weights")).content == b"four"
    picture = await api.http.get(f"{url}/4/samples/1")
    assert (picture.content, picture.headers["content-type"]) == (b"any cat", "image/png")
    for missing in ("5/weights", "8/samples/0", "4/samples/2"):
        assert reason(await api.http.get(f"{url}/{missing}")) == (404, "CHECKPOINT_NOT_FOUND")


@pytest.mark.parametrize("status", sorted(set(TaskStatus) - {TaskStatus.SUCCESS}))
async def test_without_success_there_are_no_weights(api: Api, database: Database, status: TaskStatus) -> None:
    task_id = await make(database, status=status)
    response = await api.http.get(f"/v3/training/{task_id}/weights")
    assert reason(response) == (409, "CONFLICT")
    assert str(status) in response.json()["message"]


async def test_equal_loras_that_end_in_the_same_second_have_names_of_their_own(
    api: Api, database: Database, storage: Storage
) -> None:
    tasks = [await detail(api, await make_trained(database, storage)) for _ in range(2)]
    first, second = (task["models"][0]["model_name"] for task in tasks)
    assert first == NAME
    assert second == NAME.replace(str(FINISHED_AT), str(FINISHED_AT + 1))
