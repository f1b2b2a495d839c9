"""Image tasks over HTTP: what is stored, who sees it, and how the result is told."""

import asyncio
import json
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from sqlalchemy import select, update

from maquette.core.drawing import HiresFix, Sampler
from maquette.core.image_specs import ImageSpec
from maquette.core.lifecycle import ImageStatus, Reason, TaskStatus
from maquette.core.picture_format import PictureFormat
from maquette.core.specs import BaseRef
from maquette.db.engine import Database
from maquette.db.move import move_image_task
from maquette.db.now import now
from maquette.db.tables import image_tasks, models, tasks
from maquette.server.access.repository import tenant_id
from maquette.server.app import create_app
from maquette.server.bases import service as bases
from maquette.server.bases.repository import Base
from maquette.server.images import queue, service
from maquette.server.images.queue import ImageProgress
from maquette.server.images.repository import StoredImage
from maquette.server.settings import Settings
from maquette.server.signing import open_signer
from maquette.server.webhooks import queue as webhooks
from maquette.storage.base import Storage
from maquette.testing.api import HOST, Api, Traces, picture, reason
from maquette.testing.factories import SHA256, make_image_task, make_model, make_task

GOLDEN = (Path(__file__).parents[3] / "golden" / "task_result.json").read_text()
HOOK = "https://example.com/done?order=7"
UNKNOWN = "3c6f9d1e-1111-4222-8333-444455556666"


async def spec_of(database: Database, task_id: str) -> ImageSpec:
    async with database.read() as conn:
        row = (await conn.execute(select(image_tasks.c.spec).where(image_tasks.c.id == task_id))).one()
    return msgspec.convert(row.spec, ImageSpec)


async def register(database: Database, name: str, kind: str, family: str = "sd15") -> None:
    async with database.write() as conn:
        await bases.register(conn, Base(name=name, kind=kind, family=family, location="/x", sha256=SHA256))


async def make_lora(database: Database, *, verdict: str = "passed", tenant: str = "first", family: str = "sd15") -> str:
    """A trained model's published name."""
    async with database.write() as conn:
        owner = await tenant_id(conn, tenant)
        task_id = await make_task(conn, owner, status=TaskStatus.SUCCESS)
        model_id = await make_model(conn, owner, task_id)
        words = "it differs from its trainer's sample by 30.0 on average" if verdict == "rejected" else ""
        this = models.c.id == model_id
        await conn.execute(update(models).where(this).values(verdict=verdict, verdict_message=words))
        spec = (await conn.execute(select(tasks.c.spec).where(tasks.c.id == task_id))).scalar_one()
        spec["base"]["family"] = family
        await conn.execute(update(tasks).where(tasks.c.id == task_id).values(spec=spec))
        return (await conn.execute(select(models.c.name).where(this))).scalar_one()


async def draw_all(database: Database, storage: Storage, kind: PictureFormat = PictureFormat.PNG) -> None:
    """Do what a draw loop does with everything that waits."""
    async with database.read() as conn:
        waiting = await queue.due(conn, 100, model_wait=0.0)
    for task in waiting:
        async with database.write() as conn:
            claimed = await queue.claim(conn, task, supervisor="a", lease=30.0)
        assert claimed is not None
        images = [StoredImage(queue.picture_key(claimed, index, kind), kind) for index in range(task.spec.image_num)]
        for image in images:
            await storage.put(image.key, picture(kind))
        async with database.write() as conn:
            assert await queue.succeed(conn, claimed, images)


async def test_every_default_is_filled_in_and_recorded(api: Api, database: Database) -> None:
    response = await api.http.post("/v3/async/txt2img", json={"request": {"model_name": "tiny", "prompt": "a cat"}})
    assert list(response.json()) == ["task_id"]
    spec = await spec_of(database, response.json()["task_id"])
    assert 1 <= spec.seed <= 2**32 - 1
    assert spec == ImageSpec(
        base=BaseRef("tiny", "sd15", SHA256),
        prompt="a cat",
        negative_prompt="",
        width=512,
        height=512,
        image_num=1,
        steps=20,
        guidance_scale=7.5,
        sampler=Sampler.EULER_A,
        seed=spec.seed,
        clip_skip=1,
        format=PictureFormat.PNG,
    )


async def test_every_field_reaches_the_spec(api: Api, database: Database) -> None:
    for name, kind in (("soft", "vae"), ("charm", "embedding"), ("polish", "refiner")):
        await register(database, name, kind)
    lora = await make_lora(database)
    task_id = await api.image_task(
        model_name="tiny.safetensors",
        prompt="a (blue:1.2) cat",
        negative_prompt="a dog",
        width=261,
        height="300",
        image_num=3,
        steps=7,
        guidance_scale=3,
        sampler_name="DPM++ SDE Karras",
        seed=str(2**53 + 1),
        sd_vae="soft.safetensors",
        clip_skip=2,
        loras=[{"model_name": lora.removesuffix(".safetensors"), "strength": "0.7"}],
        embeddings=[{"model_name": "charm.pt"}],
        hires_fix={"target_width": 517, "target_height": 600, "strength": 0.4, "upscaler": "Latent"},
        refiner={"switch_at": 0.8},
        extra={"response_image_type": "webp"},
    )
    spec = await spec_of(database, task_id)
    (used,) = spec.loras
    assert (used.name, used.strength, used.sha256) == (lora, 0.7, SHA256)
    assert spec.vae == BaseRef("soft", "sd15", SHA256)
    assert spec.hires_fix == HiresFix(512, 600, 0.4)
    assert spec.refiner is not None
    assert (spec.refiner.base.name, spec.refiner.switch_at) == ("polish", 0.8)
    (embedding,) = spec.embeddings
    assert (embedding.base.name, embedding.word) == ("charm", "charm")
    assert (spec.base.name, spec.width, spec.height, spec.clip_skip) == ("tiny", 256, 296, 2)
    assert (spec.sampler, spec.format) == (Sampler.DPMPP_SDE_KARRAS, PictureFormat.WEBP)
    assert spec.seeds == (2**53 + 1, 2**53 + 2, 2**53 + 3)
    assert (await api.result(task_id))["extra"]["seed"] == str(2**53 + 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_name": "nosuch"}, "request.model_name: unknown base model 'nosuch'"),
        ({"model_name": "sd3"}, "request.model_name: 'sd3' is of the family sd3"),
        ({"sd_vae": "nosuch"}, "request.sd_vae: unknown VAE 'nosuch'"),
        ({"sd_vae": "tiny"}, "request.sd_vae: 'tiny' is registered as base model"),
        ({"embeddings": [{"model_name": "nosuch"}]}, "request.embeddings[0].model_name: unknown embedding 'nosuch'"),
        (
            {"embeddings": [{"model_name": "charm"}, {"model_name": "charm.safetensors"}]},
            "request.embeddings[1].model_name: 'charm.safetensors' is given twice",
        ),
        ({"loras": [{"model_name": "nosuch"}]}, "request.loras[0].model_name: unknown LoRA 'nosuch'"),
        ({"refiner": {"switch_at": 0.8}}, "request.refiner: this server has no refiner for the family sd15"),
    ],
)
async def test_names_that_mean_nothing_are_refused(
    api: Api, database: Database, traces: Traces, changes: dict[str, Any], words: str
) -> None:
    await register(database, "sd3", "checkpoint", "sd3")
    await register(database, "charm", "embedding")
    before = await traces.count()
    response = await api.draw(**changes)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(words), response.text
    assert await traces.count() == before


async def test_a_lora_is_judged_before_it_is_drawn_with(api: Api, stranger: Api, database: Database) -> None:
    passed, pending = await make_lora(database), await make_lora(database, verdict="pending")
    rejected, other = await make_lora(database, verdict="rejected"), await make_lora(database, family="sdxl")
    field = "request.loras[0].model_name"
    for name in (passed, passed.removesuffix(".safetensors"), pending):
        assert (await api.draw(loras=[{"model_name": name}])).status_code == 200
    response = await api.draw(loras=[{"model_name": rejected}])
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == (
        f"{field}: {rejected!r} was refused, and nothing is drawn with it: it differs from its trainer's sample by 30.0"
        " on average"
    )
    response = await api.draw(loras=[{"model_name": other}])
    assert response.json()["message"].startswith(f"{field}: {other!r} is of the family sdxl and does not fit 'tiny'")
    twice = [{"model_name": passed}, {"model_name": passed.removesuffix(".safetensors")}]
    assert "is given twice" in (await api.draw(loras=twice)).json()["message"]
    unknown = (await stranger.draw(loras=[{"model_name": "nosuch"}])).json()["message"]
    foreign = (await stranger.draw(loras=[{"model_name": passed}])).json()["message"]
    assert foreign == unknown.replace("nosuch", passed)


async def test_an_operator_may_allow_less(settings: Settings, database: Database, storage: Storage, api: Api) -> None:
    less = msgspec.structs.replace(settings, max_image_num=2, max_image_steps=10, max_image_pixels=256 * 256)
    limited = Api(create_app(less, database, storage), api.http.headers["authorization"])
    hires = {"target_width": 512, "target_height": 256, "strength": 0.5}
    rule, size = "INVALID_REQUEST_BODY", "INVALID_IMAGE_SIZE"
    for changes, name, words in (
        ({"image_num": 3}, rule, "request.image_num: must be between 1 and 2 on this server, got 3"),
        ({"steps": 11}, rule, "request.steps: must be between 1 and 10 on this server, got 11"),
        ({"width": 512}, size, "request.width: a picture has at most 65536 pixels on this server, got 512x256"),
        ({"hires_fix": hires}, size, "request.hires_fix.target_width: a picture has at most 65536 pixels"),
    ):
        asked: dict[str, Any] = {"steps": 10, "width": 256, "height": 256, **changes}
        response = await limited.draw(**asked)
        assert reason(response) == (400, name)
        assert response.json()["message"].startswith(words), response.text
    assert (await limited.draw(steps=10, width=256, height=256, image_num=2)).status_code == 200


async def test_a_result_goes_from_queued_to_its_pictures(api: Api, database: Database, storage: Storage) -> None:
    task_id = await api.image_task(image_num=2, steps=10, seed=42)
    waiting = await api.result(task_id)
    assert waiting == {
        "extra": {"seed": "42", "enable_nsfw_detection": False},
        "task": {
            "task_id": task_id,
            "task_type": "TXT_TO_IMG",
            "status": "TASK_STATUS_QUEUED",
            "reason": "",
            "eta": 0,
            "progress_percent": 0,
        },
        "images": [],
        "videos": [],
        "audios": [],
    }
    async with database.write() as conn:
        (task,) = await queue.due(conn, 1, model_wait=0.0)
        claimed = await queue.claim(conn, task, supervisor="a", lease=30.0)
        assert claimed is not None
        await queue.advance(conn, [ImageProgress(claimed, 0, begun_ago=None)], lease=30.0)
    assert (await api.result(task_id)) == waiting
    async with database.write() as conn:
        await queue.advance(conn, [ImageProgress(claimed, 5, begun_ago=0.0)], lease=30.0)
    database.clock.shift(5)
    drawing = (await api.result(task_id))["task"]
    assert (drawing["status"], drawing["progress_percent"]) == ("TASK_STATUS_PROCESSING", 25)
    assert 15 <= drawing["eta"] <= 25
    async with database.write() as conn:
        await queue.fail(conn, claimed, Reason.WORKER_LOST)
    assert (await api.result(task_id))["task"] == waiting["task"]
    database.clock.shift(5)
    await draw_all(database, storage)
    first, second = (await api.result(task_id))["images"]
    assert first["image_url"].startswith(f"{HOST}/images/")
    assert (first["image_url_ttl"], first["image_type"], first["nsfw_detection_result"]) == ("3600", "png", None)
    async with httpx.AsyncClient(transport=api.http._transport) as anybody:
        for image in (first, second):
            shown = await anybody.get(image["image_url"])
            assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
            assert shown.content == picture()
            assert shown.headers["content-length"] == str(len(picture()))


async def test_a_failed_task_says_why_and_is_a_200(api: Api, database: Database) -> None:
    task_id = await api.image_task()
    async with database.write() as conn:
        (task,) = await queue.due(conn, 1, model_wait=0.0)
        assert await queue.refuse(conn, task, Reason.MODEL_NOT_READY)
    result = await api.result(task_id)
    assert result["task"]["status"] == "TASK_STATUS_FAILED"
    assert result["task"]["reason"] == "A LoRA that the request names was not ready in time."
    assert (result["images"], result["task"]["progress_percent"]) == ([], 0)
    assert list(result["extra"]) == ["seed", "enable_nsfw_detection"]


@pytest.mark.parametrize("kind", PictureFormat)
async def test_a_picture_has_its_formats_type(
    api: Api, database: Database, storage: Storage, kind: PictureFormat
) -> None:
    task_id = await api.image_task(extra={"response_image_type": kind})
    await draw_all(database, storage, kind)
    (image,) = (await api.result(task_id))["images"]
    assert image["image_type"] == kind
    assert (await api.http.get(image["image_url"])).headers["content-type"] == f"image/{kind}"


async def test_an_address_is_good_for_an_hour_and_only_as_it_is(api: Api, database: Database, storage: Storage) -> None:
    task_id = await api.image_task()
    await draw_all(database, storage)
    async with database.read() as conn:
        at = await now(conn)
    url = (await api.result(task_id))["images"][0]["image_url"]
    assert int(url.partition("expires=")[2].partition("&")[0]) >= at + 3600
    for altered in (url[:-1] + "x", url.replace("/0.png", "/1.png"), url.replace("expires=1", "expires=2"), url[:40]):
        assert reason(await api.http.get(altered)) in [(403, "IMAGE_URL_INVALID"), (404, "API_NOT_FOUND")], altered
    assert reason(await api.http.get(url.replace("/0.png", "/1.png"))) == (403, "IMAGE_URL_INVALID")
    database.clock.shift(3590)
    assert (await api.http.get(url)).status_code == 200
    database.clock.shift(20)
    response = await api.http.get(url)
    assert reason(response) == (403, "IMAGE_URL_EXPIRED")
    assert response.json()["message"] == "the picture's address has expired; ask for a new one"
    url = (await api.result(task_id))["images"][0]["image_url"]
    (key,) = [info.key async for info in storage.list("images")]
    await storage.delete(key)
    assert reason(await api.http.get(url)) == (404, "IMAGE_NOT_FOUND")
    database.clock.shift(24 * 3600)
    assert reason(await api.http.get(f"/v3/async/task-result?task_id={task_id}")) == (404, "TASK_NOT_FOUND")


async def test_unknown_foreign_and_malformed_ids_read_the_same(api: Api, stranger: Api) -> None:
    task_id = await api.image_task()
    answers = {
        (await tenant.http.get(f"/v3/async/task-result?task_id={one}")).content
        for tenant, one in ((stranger, task_id), (api, UNKNOWN), (api, task_id.upper()), (api, "x"))
    }
    assert answers == {b'{"code":404,"reason":"TASK_NOT_FOUND","message":"task not found","metadata":{}}'}
    response = await api.http.get("/v3/async/task-result")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == "task_id: is required; it must be a string"
    assert reason(await api.http.get(f"/v3/training/subject?task_id={task_id}")) == (404, "TASK_NOT_FOUND")


async def test_the_result_leaves_a_real_server_as_published(port: int, api: Api, database: Database) -> None:
    async with database.write() as conn:
        owner = await tenant_id(conn, "first")
        task_id = await make_image_task(conn, owner, status=ImageStatus.SUCCEED)
        instants = {"created_at": 1750000600.0, "started_at": 1750000601.0}
        await conn.execute(update(image_tasks).values(**instants))
        finished = (await conn.execute(select(image_tasks.c.finished_at))).scalar_one()
    async with httpx.AsyncClient(headers={"authorization": api.http.headers["authorization"]}) as http:
        response = await http.get(f"http://127.0.0.1:{port}/v3/async/task-result?task_id={task_id}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    url = response.json()["images"][0]["image_url"]
    assert url.startswith(f"http://127.0.0.1:{port}/images/{owner}/{task_id}/1/0.png?expires=")
    expected = json.loads(GOLDEN)
    expected["task"]["task_id"] = task_id
    expected["images"][0]["image_url"] = url
    expected["extra"]["debug_info"]["complete_time_ms"] = str(int(finished * 1000))
    assert response.content == json.dumps(expected, separators=(",", ":")).encode()


# ------------------------------------------------------------------------------------------- pictures to start from


async def originals(storage: Storage) -> list[bytes]:
    return [await storage.get(info.key) async for info in storage.list("images")]


@pytest.mark.parametrize(
    "form",
    [
        lambda data: b64encode(data).decode(),
        lambda data: f"data:image/png;base64,{b64encode(data).decode()}",
        lambda data: f" data:image/png;base64, {b64encode(data).decode()}\n",
        lambda data: urlsafe_b64encode(data).decode().rstrip("="),
        lambda data: "\r\n".join(b64encode(data).decode()[at : at + 76] for at in range(0, 4 * len(data), 76)),
    ],
    ids=["plain", "data URL", "spaces", "URL-safe without padding", "lines"],
)
async def test_a_picture_to_start_from_is_stored_as_it_came(
    api: Api, database: Database, storage: Storage, form: Any
) -> None:
    data = picture(size=(67, 51))
    task_id = await api.image_task("img2img", image_base64=form(data), strength=0.4)
    assert await originals(storage) == [data]
    assert (await spec_of(database, task_id)).original_strength == 0.4
    assert (await api.result(task_id))["task"]["task_type"] == "IMG_TO_IMG"
    async with database.read() as conn:
        (task,) = await queue.due(conn, 1, model_wait=0.0)
    assert task.original_key is not None
    assert task.original_key.endswith("/original.png")


@pytest.mark.parametrize(
    ("image", "answer", "words"),
    [
        (b"GIF89a" + bytes(100), (400, "INVALID_IMAGE_FORMAT"), "the bytes are neither a JPEG, a PNG nor a WebP"),
        (picture()[:-20], (400, "INVALID_IMAGE_FORMAT"), "the picture is truncated"),
        (picture(size=(501, 200)), (400, "IMAGE_EXCEEDS_MAX_RESOLUTION"), "the picture has 501x200 pixels"),
        (bytes(50_001), (400, "IMAGE_FILE_EXCEEDS_MAX_SIZE"), "the picture is larger than 50000 bytes"),
        ("no base64!", (400, "INVALID_IMAGE_FORMAT"), "is no Base64"),
        ("\u00e9\u00e9\u00e9\u00e9", (400, "INVALID_IMAGE_FORMAT"), "is no Base64"),
        ("data:image/png;base64,", (400, "INVALID_IMAGE_FORMAT"), "the upload is empty"),
    ],
)
async def test_a_bad_picture_to_start_from_is_refused(
    settings: Settings,
    database: Database,
    storage: Storage,
    api: Api,
    traces: Traces,
    image: bytes | str,
    answer: tuple[int, str],
    words: str,
) -> None:
    less = msgspec.structs.replace(settings, max_original_bytes=50_000, max_original_pixels=100_000)
    limited = Api(create_app(less, database, storage), api.http.headers["authorization"])
    before = await traces.count()
    text = image if isinstance(image, str) else b64encode(image).decode()
    response = await limited.draw("img2img", image_base64=text)
    assert reason(response) == answer
    assert response.json()["message"].startswith(f"request.image_base64: {words}"), response.text
    assert await traces.count() == before


async def test_a_large_body_is_for_the_call_that_takes_a_picture(
    api: Api, settings: Settings, storage: Storage
) -> None:
    padded = picture("jpeg") + bytes(settings.max_original_bytes - len(picture("jpeg")))
    assert (await api.draw("img2img", image_base64=b64encode(padded).decode())).status_code == 200
    assert [len(data) for data in await originals(storage)] == [settings.max_original_bytes]
    response = await api.draw("img2img", image_base64=b64encode(padded + b"x").decode())
    assert reason(response) == (400, "IMAGE_FILE_EXCEEDS_MAX_SIZE")
    response = await api.draw(future_field="x" * settings.max_body_bytes)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == f"body: must be at most {settings.max_body_bytes} bytes"


# ------------------------------------------------------------------------------------------------ once and webhooks


async def test_the_same_request_at_the_same_moment_is_one_task_and_one_object(
    api: Api, database: Database, storage: Storage
) -> None:
    asked = {"request": {"model_name": "tiny", "prompt": "x", "image_base64": b64encode(picture()).decode()}}
    headers = {"Idempotency-Key": "5f0c"}
    answers = await asyncio.gather(*(api.http.post("/v3/async/img2img", json=asked, headers=headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    async with database.read() as conn:
        assert len(await queue.due(conn, 10, model_wait=0.0)) == 1
    assert len(await originals(storage)) == 1
    other = {"request": asked["request"] | {"prompt": "y"}}
    refused = await api.http.post("/v3/async/img2img", json=other, headers=headers)
    assert reason(refused) == (422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.parametrize("status", ["TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED", ""])
async def test_test_mode_tells_the_webhook_and_draws_nothing(
    api: Api, database: Database, settings: Settings, status: str
) -> None:
    test = {"enabled": True, "return_task_status": status}
    task_id = await api.image_task(extra={"webhook": {"url": HOOK, "test_mode": test}})
    expected = status or "TASK_STATUS_SUCCEED"
    result = await api.result(task_id)
    assert (result["task"]["status"], result["images"]) == (expected, [])
    async with database.read() as conn:
        assert await queue.due(conn, 10, model_wait=0.0) == []
        (delivery,) = await webhooks.due(conn, limit=10)
        assert (delivery.image_task_id, delivery.url) == (task_id, HOOK)
        event = await service.event(
            conn, delivery.tenant_id, task_id, open_signer(settings), public_url="", ttl=settings.image_url_ttl
        )
    told = msgspec.to_builtins(event)
    assert list(told) == ["event_type", "payload"]
    assert told["event_type"] == "ASYNC_TASK_RESULT"
    assert told["payload"]["extra"].pop("webhook") == {"url": HOOK}
    assert told["payload"] == result


async def test_a_webhook_is_told_addresses_as_its_client_reached_the_server(
    api: Api, database: Database, storage: Storage, settings: Settings, app: Litestar
) -> None:
    await api.image_task(extra={"webhook": {"url": HOOK, "test_mode": {"enabled": "false"}}})
    await draw_all(database, storage)
    async with database.read() as conn:
        (delivery,) = await webhooks.due(conn, limit=10)
        proxy = "https://pictures.example/maquette"
        for public_url, base in (("", HOST), (proxy, proxy), (f"{proxy}/", proxy)):
            event = await service.event(
                conn,
                delivery.tenant_id,
                delivery.image_task_id,
                open_signer(settings),
                public_url=public_url,
                ttl=settings.image_url_ttl,
            )
            (image,) = event.payload.images
            assert image.image_url.startswith(f"{base}/images/")
            path = image.image_url.removeprefix(base)
            assert (await api.http.get(path)).content == picture()


async def test_a_task_that_moved_meanwhile_keeps_its_owner(api: Api, stranger: Api, database: Database) -> None:
    task_id = await api.image_task()
    async with database.write() as conn:
        other = await tenant_id(conn, "second")
        begin: Any = {
            "source": ImageStatus.QUEUED,
            "to": ImageStatus.PROCESSING,
            "reason": Reason.DISPATCHED,
        }
        assert await move_image_task(conn, other, task_id, **begin) is None
