"""What a server that runs as a sandbox makes of requests, and that any other makes nothing of it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from litestar import Litestar
from sqlalchemy import select

from maquette.bases.catalogue import BUNDLED_BASE, KNOWN_BASES
from maquette.core.image_specs import ImageSpec
from maquette.core.lifecycle import ImageStatus
from maquette.core.rehearsal import OF_PICTURES, OF_TRAININGS, Breakdown
from maquette.core.specs import TrainingSpec
from maquette.db.engine import Database
from maquette.db.move import move_image_task
from maquette.db.now import now
from maquette.db.tables import image_tasks, tasks
from maquette.server.bases import service as bases
from maquette.server.bases.service import Base
from maquette.server.settings import Settings
from maquette.testing.api import Api, Traces, reason
from maquette.testing.factories import IMAGE_PATHS, SHA256


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """A sandbox's, unless the test says otherwise."""
    return Settings(data_dir=tmp_path / "data", sandbox=getattr(request, "param", True))


@pytest.fixture(autouse=True)
async def bundled(app: Litestar, database: Database) -> None:
    """The bundled base is registered, as in every server that runs."""
    async with database.write() as conn:
        base = Base(name=BUNDLED_BASE.name, kind="checkpoint", family="sd15", location="/bases/bundled", sha256=SHA256)
        await bases.register(conn, base)


plainly = pytest.mark.parametrize("settings", [False], indirect=True, ids=["no sandbox"])


async def training_spec(database: Database, task_id: str) -> TrainingSpec:
    async with database.read() as conn:
        return msgspec.convert(await conn.scalar(select(tasks.c.spec).where(tasks.c.id == task_id)), TrainingSpec)


async def image_spec(database: Database, task_id: str) -> ImageSpec:
    async with database.read() as conn:
        found = await conn.scalar(select(image_tasks.c.spec).where(image_tasks.c.id == task_id))
    return msgspec.convert(found, ImageSpec)


async def notes(api: Api, task_id: str) -> list[str]:
    told = (await api.http.get(f"/v3/training/{task_id}/events")).json()["events"]
    return [event["data"]["text"] for event in told if event["kind"] == "note"]


async def test_every_published_base_is_the_bundled_one_to_train_on_and_to_draw_with(
    api: Api, database: Database
) -> None:
    items = [{"assets_id": await api.upload()}]
    for known in KNOWN_BASES:
        trained = await api.task(base_model=known.name, image_dataset_items=items)
        assert (await training_spec(database, trained)).base.name == BUNDLED_BASE.name
        drawn = await api.image_task(model_name=known.file_name)
        assert (await image_spec(database, drawn)).base.name == BUNDLED_BASE.name
    refused = await api.train(base_model="of_nobody", image_dataset_items=items)
    assert reason(refused) == (400, "INVALID_REQUEST_BODY")


@plainly
async def test_elsewhere_a_published_base_is_one_that_the_operator_must_register(api: Api) -> None:
    refused = await api.train(base_model=KNOWN_BASES[3].name)
    assert reason(refused) == (400, "INVALID_REQUEST_BODY")


async def test_a_training_is_small_and_its_events_say_each_cap(api: Api, database: Database) -> None:
    task_id = await api.task(
        base_model="dreamshaper_8_93211", width=512, height=768, expert_setting={"max_train_steps": 2000}
    )
    spec = await training_spec(database, task_id)
    assert (spec.preparation.width, spec.preparation.height) == (128, 128)
    assert (spec.sample.width, spec.sample.height) == (128, 128)
    assert spec.settings.max_train_steps == 60
    assert await notes(api, task_id) == [
        "sandbox: base_model is maquette-tiny here, not dreamshaper_8_93211",
        "sandbox: width is 128 here, not 512",
        "sandbox: height is 128 here, not 768",
        "sandbox: max_train_steps is 60 here, not 2000",
    ]


async def test_a_training_warms_up_in_half_of_its_steps_and_its_events_say_so(api: Api, database: Database) -> None:
    setting = {"max_train_steps": 40, "learning_rate": 1e-6, "lr_scheduler": "constant_with_warmup"}
    task_id = await api.task(expert_setting=setting | {"lr_warmup_steps": 30})
    settings = (await training_spec(database, task_id)).settings
    assert (settings.max_train_steps, settings.learning_rate, settings.lr_warmup_steps) == (40, 1e-6, 20)
    assert await notes(api, task_id) == ["sandbox: lr_warmup_steps is 20 here, not 30"]


async def test_what_is_small_is_left_as_it_was_asked_for(api: Api, database: Database) -> None:
    task_id = await api.task(width=64, height=128, expert_setting={"max_train_steps": 60})
    spec = await training_spec(database, task_id)
    assert (spec.preparation.width, spec.preparation.height, spec.settings.max_train_steps) == (64, 128, 60)
    assert await notes(api, task_id) == []


@plainly
async def test_elsewhere_nothing_is_made_small(api: Api, database: Database) -> None:
    task_id = await api.task(width=512, height=768, expert_setting={"max_train_steps": 2000})
    spec = await training_spec(database, task_id)
    assert (spec.preparation.width, spec.preparation.height, spec.settings.max_train_steps) == (512, 768, 2000)
    assert await notes(api, task_id) == []


async def test_a_picture_is_small(api: Api, database: Database) -> None:
    second = {"target_width": 1024, "target_height": 1024, "strength": 0.5, "upscaler": "Latent"}
    task_id = await api.image_task(width=512, height=136, steps=100, hires_fix=second)
    spec = await image_spec(database, task_id)
    assert (spec.width, spec.height, spec.steps) == (128, 128, 60)
    assert spec.hires_fix is not None
    assert (spec.hires_fix.width, spec.hires_fix.height, spec.hires_fix.strength) == (128, 128, 0.5)


async def request_info(api: Api, database: Database, task_id: str) -> str:
    """What the result of an image task says of its request once it has failed."""
    async with database.write() as conn:
        query = select(image_tasks.c.tenant_id).where(image_tasks.c.id == task_id)
        owner = (await conn.execute(query)).scalar_one()
        at = await now(conn)
        begun = {"fence": 1, "supervisor": "a", "lease_until": at + 30, "started_at": at}
        first, last = IMAGE_PATHS[ImageStatus.FAILED]
        for (source, to, why), values in ((first, begun), (last, {})):
            await move_image_task(conn, owner, task_id, source=source, to=to, reason=why, values=values)
    return (await api.result(task_id))["extra"]["debug_info"]["request_info"]


async def test_the_result_of_a_picture_says_each_cap(api: Api, database: Database) -> None:
    second = {"target_width": 1024, "target_height": 128, "strength": 0.5, "upscaler": "Latent"}
    name = "dreamshaper_8_93211.safetensors"
    task_id = await api.image_task(model_name=name, width=512, height=136, steps=100, hires_fix=second)
    assert await request_info(api, database, task_id) == (
        f"sandbox: model_name is maquette-tiny here, not {name}; sandbox: width is 128 here, not 512;"
        " sandbox: height is 128 here, not 136; sandbox: steps is 60 here, not 100;"
        " sandbox: hires_fix.target_width is 128 here, not 1024"
    )


async def test_the_result_of_a_picture_that_was_small_says_nothing(api: Api, database: Database) -> None:
    task_id = await api.image_task(model_name="maquette-tiny.safetensors", width=128, height=128, steps=60)
    assert await request_info(api, database, task_id) == ""


@plainly
async def test_elsewhere_the_result_of_a_picture_says_nothing(api: Api, database: Database) -> None:
    assert await request_info(api, database, await api.image_task(width=512, height=512, steps=100)) == ""


async def test_pictures_may_have_expired_before_a_training_takes_them(api: Api, traces: Traces) -> None:
    items = [{"assets_id": await api.upload()}]
    before = await traces.count()
    refused = await api.train(name="sandbox: expired-upload", image_dataset_items=items)
    assert reason(refused) == (400, "INVALID_REQUEST_BODY")
    assert refused.json()["message"].startswith("image_dataset_items[0].assets_id: no picture has been uploaded")
    assert await traces.count() == before
    assert (await api.train(name="expired-upload", image_dataset_items=items)).status_code == 200


@pytest.mark.parametrize("asked", ["no-such", "slow-webhook", ""])
async def test_a_training_that_asks_for_what_it_cannot_have_is_told_what_there_is(api: Api, asked: str) -> None:
    refused = await api.train(name=f"sandbox: {asked}")
    assert reason(refused) == (400, "INVALID_REQUEST_BODY")
    assert refused.json()["message"] == (
        f"name: asks this sandbox for {asked!r}; what can break down here is {', '.join(sorted(OF_TRAININGS))}"
    )


@pytest.mark.parametrize("asked", ["no-such", "expired-upload", "lost-worker-once"])
async def test_a_picture_that_asks_for_what_it_cannot_have_is_told_what_there_is(api: Api, asked: str) -> None:
    refused = await api.draw(prompt=f"sandbox: {asked} and a cat")
    assert reason(refused) == (400, "INVALID_REQUEST_BODY")
    assert refused.json()["message"] == (
        f"request.prompt: asks this sandbox for {asked!r}; what can break down here is {', '.join(sorted(OF_PICTURES))}"
    )


@plainly
@pytest.mark.parametrize("asked", [*Breakdown, "no-such"])
async def test_elsewhere_such_a_name_is_a_name_and_such_a_prompt_a_prompt(api: Api, asked: str) -> None:
    words: dict[str, Any] = {"name": f"sandbox: {asked}"}
    assert (await api.train(**words)).status_code == 200
    assert (await api.draw(prompt=words["name"])).status_code == 200
