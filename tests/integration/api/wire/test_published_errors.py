"""Every published error is either made to happen here, or the manual says why it does not."""

import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from litestar import Litestar, get
from msgspec.structs import replace
from sqlalchemy import update
from structlog.testing import capture_logs

from maquette.core.errors import HTTP_STATUS, ErrorReason
from maquette.db.engine import Database, open_database
from maquette.db.migrate import upgrade
from maquette.db.tables import image_tasks
from maquette.server.access import service as access
from maquette.server.app import create_app
from maquette.server.http_errors import CREATES_TASK
from maquette.server.settings import Settings
from maquette.storage.base import Storage
from maquette.testing.api import Api, picture, reason
from maquette.testing.postgres import PostgresServer

MANUAL = (Path(__file__).parents[4] / "docs" / "api.md").read_text()
UNKNOWN = "3c6f9d1e-1111-4222-8333-444455556666"

PUBLISHED = {
    "INVALID_REQUEST_BODY": 400,
    "IMAGE_FILE_EXCEEDS_MAX_SIZE": 400,
    "INVALID_IMAGE_FORMAT": 400,
    "IMAGE_EXCEEDS_MAX_RESOLUTION": 400,
    "INVALID_IMAGE_SIZE": 400,
    "IMAGE_NO_FACE_DETECTED": 400,
    "INVALID_CUSTOM_OUTPUT_PATH": 400,
    "ILLEGAL_PROMPT": 400,
    "ILLEGAL_IMAGE_CONTENT": 400,
    "INVALID_AUDIO_FILE": 400,
    "BILLING_BALANCE_NOT_ENOUGH": 400,
    "API_NOT_FOUND": 404,
    "MISSING_API_KEY": 400,
    "INVALID_API_KEY": 403,
    "FEATURE_NOT_ALLOWED": 403,
    "API_NOT_ALLOWED": 403,
    "NEED_REAL_NAME_VERIFY": 403,
    "RATE_LIMIT_EXCEEDED": 429,
    "CREATE_TASK_FAILED": 500,
    "TASK_NOT_FOUND": 404,
    "GET_RESULT_FAILED": 500,
    "TASK_FAILED": 500,
    "BILLING_FAILED": 500,
    "BILLING_AUTH_FAILED": 403,
}
"""The published table of errors of the calls that draw."""
SEEN = {"VALIDATOR", "ANONYMOUS_ACCESS_QUOTA_EXCEEDS"}
"""Not in the table; found in clients and answers."""

IMPOSSIBLE: dict[str, str] = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+|none) \| .+ \|$", MANUAL, re.MULTILINE))
"""What the manual says does not happen, with its published status."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Limits that small requests can break."""
    return replace(
        settings,
        max_upload_bytes=5_000,
        max_pixels=10_000,
        max_image_pixels=256 * 256,
        images_per_minute=2,
        custom_storage="s3://pictures",
    )


async def bad_field(api: Api) -> httpx.Response:
    return await api.draw(width=0)


async def large_upload(api: Api) -> httpx.Response:
    return await api.http.put((await api.asset())["upload_url"], content=picture() + bytes(5_000))


async def odd_upload(api: Api) -> httpx.Response:
    return await api.http.put((await api.asset())["upload_url"], content=b"GIF89a")


async def wide_upload(api: Api) -> httpx.Response:
    return await api.http.put((await api.asset())["upload_url"], content=picture(size=(101, 100)))


async def large_picture(api: Api) -> httpx.Response:
    return await api.draw(width=512, height=512)


async def closed_bucket(api: Api) -> httpx.Response:
    bucket = {"region": "us-east-2", "bucket": "another", "path": "/"}
    return await api.draw(extra={"custom_storage": {"aws_s3": bucket}})


async def unknown_call(api: Api) -> httpx.Response:
    return await api.http.post("/v3/async/txt2video", json={})


async def no_key(api: Api) -> httpx.Response:
    del api.http.headers["authorization"]
    return await api.draw()


async def enterprise(api: Api) -> httpx.Response:
    return await api.draw(extra={"enterprise_plan": {"enabled": True}})


async def too_fast(api: Api) -> httpx.Response:
    await api.image_task(image_num=2)
    return await api.draw()


async def unknown_task(api: Api) -> httpx.Response:
    return await api.http.get(f"/v3/async/task-result?task_id={UNKNOWN}")


REFUSALS: dict[str, Callable[[Api], Awaitable[httpx.Response]]] = {
    "INVALID_REQUEST_BODY": bad_field,
    "IMAGE_FILE_EXCEEDS_MAX_SIZE": large_upload,
    "INVALID_IMAGE_FORMAT": odd_upload,
    "IMAGE_EXCEEDS_MAX_RESOLUTION": wide_upload,
    "INVALID_IMAGE_SIZE": large_picture,
    "INVALID_CUSTOM_OUTPUT_PATH": closed_bucket,
    "API_NOT_FOUND": unknown_call,
    "INVALID_API_KEY": no_key,
    "FEATURE_NOT_ALLOWED": enterprise,
    "RATE_LIMIT_EXCEEDED": too_fast,
    "TASK_NOT_FOUND": unknown_task,
}
"""How each is brought about."""
FAILURES = {
    "CREATE_TASK_FAILED": [
        ("POST", "/v3/training/subject"),
        ("POST", "/v3/training/style"),
        ("POST", "/v3/async/txt2img"),
        ("POST", "/v3/async/img2img"),
    ],
    "GET_RESULT_FAILED": [
        ("GET", "/v3/training/subject"),
        ("GET", "/v3/training/style"),
        ("GET", "/v3/async/task-result"),
    ],
}
"""The calls that answer so where the server is at fault."""


def test_no_published_name_is_forgotten() -> None:
    happening = set(REFUSALS) | set(FAILURES)
    assert happening.isdisjoint(IMPOSSIBLE)
    assert happening | set(IMPOSSIBLE) == set(PUBLISHED) | SEEN
    assert {name: HTTP_STATUS[ErrorReason(name)] for name in happening} == {
        name: status for name, status in PUBLISHED.items() if name in happening
    }


def test_what_does_not_happen_is_in_the_manual_with_its_status_and_not_in_the_code() -> None:
    assert {name: int(status) for name, status in IMPOSSIBLE.items() if name in PUBLISHED and status != "none"} == {
        name: status for name, status in PUBLISHED.items() if name in IMPOSSIBLE
    }
    assert set(IMPOSSIBLE).isdisjoint(HTTP_STATUS)


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_has_its_published_status_and_name(api: Api, name: str) -> None:
    response = await REFUSALS[name](api)
    assert reason(response) == (PUBLISHED[name], name)
    assert ("retry-after" in response.headers) == (name == "RATE_LIMIT_EXCEEDED")


@pytest.fixture
async def bereft(settings: Settings, storage: Storage) -> AsyncGenerator[Api]:
    """The API as a tenant uses it whose server has lost its database."""
    with PostgresServer() as server:
        database = open_database(await server.create("goes_away"))
        await upgrade(database)
        async with database.write() as conn:
            key = await access.create_key(conn, "first")
    yield Api(create_app(settings, database, storage), key)
    await database.dispose()


async def test_a_failure_has_its_published_name_and_says_when_to_try_again(bereft: Api) -> None:
    drawing = {"model_name": "tiny", "prompt": "a cat", "image_base64": b64encode(picture()).decode()}
    items = [{"assets_id": "x"}]
    training = {"name": "cat", "base_model": "tiny", "width": 64, "height": 64, "image_dataset_items": items}
    for name, calls in FAILURES.items():
        for method, path in calls:
            body = {"request": drawing} if "async" in path else training
            query = f"?task_id={UNKNOWN}" if method == "GET" else ""
            with capture_logs():
                response = await bereft.http.request(method, path + query, json=body)
            assert reason(response) == (PUBLISHED[name], name), path
            assert response.headers["retry-after"] == "5"


async def test_a_failure_of_any_other_call_keeps_the_usual_name(bereft: Api) -> None:
    for path in ("/v3/training", "/v3/model", "/v3/user", f"/v3/training/{UNKNOWN}"):
        with capture_logs():
            assert reason(await bereft.http.get(path)) == (503, "SERVICE_UNAVAILABLE")


async def test_a_defect_is_no_reason_to_try_again(api: Api, app: Litestar, database: Database) -> None:
    @get("/broken", opt=CREATES_TASK)
    async def broken() -> None:
        raise RuntimeError

    app.register(broken)
    task_id = await api.image_task()
    async with database.write() as conn:
        await conn.execute(update(image_tasks).where(image_tasks.c.id == task_id).values(spec={}))
    with capture_logs():
        failures = {
            "CREATE_TASK_FAILED": await api.http.get("/broken"),
            "GET_RESULT_FAILED": await api.http.get(f"/v3/async/task-result?task_id={task_id}"),
        }
    for name, response in failures.items():
        assert reason(response) == (500, name)
        assert "retry-after" not in response.headers
