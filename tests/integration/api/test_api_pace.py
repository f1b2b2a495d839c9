"""Pictures that a tenant may ask for in a minute."""

import asyncio

import httpx
import pytest
from msgspec.structs import replace

from maquette.db.engine import Database
from maquette.server.access import service as access
from maquette.server.app import create_app
from maquette.server.settings import Settings
from maquette.storage.base import Storage
from maquette.testing.api import Api, Traces, reason

MOST = 3
TEST_OF_A_WEBHOOK = {"webhook": {"url": "https://example.com/done", "test_mode": {"enabled": True}}}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, images_per_minute=MOST)


def refused(response: httpx.Response) -> int:
    """The seconds after which a request that was too much may come again."""
    assert reason(response) == (429, "RATE_LIMIT_EXCEEDED")
    seconds = response.headers["retry-after"]
    assert response.json()["message"] == (
        f"at most {MOST} pictures a minute may be asked for on this server; try again in {seconds} s"
    )
    return int(seconds)


async def test_pictures_are_counted_and_there_is_room_when_it_was_said(api: Api, database: Database) -> None:
    await api.image_task(image_num=2)
    database.clock.shift(20)
    await api.image_task()
    assert 39 <= refused(await api.draw()) <= 40
    wait = refused(await api.draw(image_num=3))
    assert 59 <= wait <= 60
    assert 39 <= refused(await api.draw(image_num=2)) <= 40
    database.clock.shift(40)
    await api.image_task(image_num=2)
    assert refused(await api.draw()) <= wait - 40


async def test_a_task_that_could_never_be_asked_for_is_told_so(api: Api) -> None:
    response = await api.draw(image_num=MOST + 1)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == "request.image_num: must be between 1 and 3 on this server, got 4"


async def test_what_is_refused_leaves_nothing_and_does_not_count(api: Api, traces: Traces, database: Database) -> None:
    await api.image_task(image_num=MOST)
    before = await traces.count()
    for _ in range(3):
        refused(await api.draw())
        refused(await api.draw("img2img"))
    assert await traces.count() == before
    database.clock.shift(60)
    await api.image_task(image_num=MOST)


async def test_of_requests_at_once_no_more_come_through(api: Api) -> None:
    responses = await asyncio.gather(*(api.draw() for _ in range(10)))
    assert sorted(response.status_code for response in responses) == [200] * MOST + [429] * (10 - MOST)


async def test_all_keys_of_a_tenant_count_as_one_and_other_tenants_do_not(
    api: Api, stranger: Api, database: Database
) -> None:
    await api.image_task(image_num=MOST)
    async with database.write() as conn:
        api.http.headers["authorization"] = await access.create_key(conn, "first")
    refused(await api.draw())
    await stranger.image_task(image_num=MOST)


async def test_a_repeated_request_gets_its_first_answer(api: Api) -> None:
    api.http.headers["idempotency-key"] = "one"
    first = await api.image_task(image_num=MOST)
    assert await api.image_task(image_num=MOST) == first
    api.http.headers["idempotency-key"] = "two"
    refused(await api.draw())


async def test_tests_of_webhooks_draw_nothing_and_do_not_count(api: Api) -> None:
    for _ in range(MOST + 1):
        await api.image_task(extra=TEST_OF_A_WEBHOOK)
    await api.image_task(image_num=MOST)
    await api.image_task(extra=TEST_OF_A_WEBHOOK)


async def test_results_may_be_asked_for_without_end(api: Api) -> None:
    task_id = await api.image_task(image_num=MOST)
    refused(await api.draw())
    for _ in range(50):
        await api.result(task_id)


async def test_by_default_there_is_no_limit(api: Api, settings: Settings, database: Database, storage: Storage) -> None:
    app = create_app(replace(settings, images_per_minute=Settings().images_per_minute), database, storage)
    free = Api(app, api.http.headers["authorization"])
    for _ in range(20):
        await free.image_task(image_num=8)
