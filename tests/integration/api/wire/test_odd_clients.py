"""What published clients do otherwise than the reference says, byte for byte as they do it, over a real connection.

The clients are the publisher's packages for Python (`novita-client`) and JavaScript (`novita-sdk`), a PHP application
on Laravel (`novita-laravel`), the publisher's playground for faces, which is built on the Python client, and programs
of nobody known that send requests by themselves.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from maquette.core.image_specs import ImageSpec
from maquette.core.specs import Preparation, TrainingSpec
from maquette.db.engine import Database
from maquette.db.tables import image_tasks, tasks
from maquette.server.bases import service as bases
from maquette.server.bases.repository import Base
from maquette.testing.api import Api, picture
from maquette.testing.factories import SHA256
from maquette.testing.wire import CURL, JAVASCRIPT, KEYLESS, PHP, PYTHON, Answer, WireClient

NO_TYPE = ("Host: {host}", "Accept: */*", "Authorization: Bearer {key}")
FACE_COMPONENTS = [
    {"name": "face_crop_region", "args": [{"name": "ratio", "value": "1.4"}]},
    {"name": "resize", "args": [{"name": "height", "value": "512"}, {"name": "width", "value": "512"}]},
    {
        "name": "face_restore",
        "args": [{"name": "method", "value": "gfpgan_1.4"}, {"name": "upscale", "value": "1.0"}],
    },
]
"""The Python client's FACE_TRAINING_DEFAULT_COMPONENTS."""
PYTHON_EXTRA = {
    "response_image_type": "jpeg",
    "enable_nsfw_detection": False,
    "nsfw_detection_level": 0,
    "custom_storage": {},
    "enterprise_plan": {},
}


class Wire:
    """The running server, as one tenant's clients reach it, and what they leave in its database."""

    def __init__(self, port: int, key: str, database: Database) -> None:
        self.host = f"127.0.0.1:{port}"
        self._key = key
        self._database = database

    def client(self, lines: tuple[str, ...]) -> WireClient:
        return WireClient(self.host, self._key, lines)

    async def get(self, lines: tuple[str, ...], target: str) -> Answer:
        return await asyncio.to_thread(self.client(lines).get, target)

    async def post(self, lines: tuple[str, ...], target: str, body: Any) -> Answer:
        return await asyncio.to_thread(self.client(lines).post, target, body)

    async def put(self, target: str, data: bytes, *lines: str) -> Answer:
        """Upload without a key, as every client does."""
        return await asyncio.to_thread(self.client(KEYLESS).put, target, data, *lines)

    async def upload(self) -> str:
        """An uploaded picture's id."""
        address = ok(await self.post(PYTHON, "/v3/assets/training_dataset", {"file_extension": "jpeg"}))
        assert (await self.put(address["upload_url"], picture("jpeg"), "Content-type: image/jpeg")).status == 200
        return address["assets_id"]

    async def trained_with(self, answer: Answer) -> TrainingSpec:
        """What the task of a create call trains with."""
        async with self._database.read() as conn:
            query = select(tasks.c.spec).where(tasks.c.id == ok(answer)["task_id"])
            return msgspec.convert((await conn.execute(query)).scalar_one(), TrainingSpec)

    async def drawn_with(self, answer: Answer) -> ImageSpec:
        """What the image task of a create call draws with."""
        async with self._database.read() as conn:
            query = select(image_tasks.c.spec).where(image_tasks.c.id == ok(answer)["task_id"])
            return msgspec.convert((await conn.execute(query)).scalar_one(), ImageSpec)


@pytest.fixture
async def wire(port: int, api: Api, database: Database) -> Wire:
    return Wire(port, api.http.headers["authorization"].removeprefix("Bearer "), database)


def ok(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    return answer.json()


def names(answer: Answer) -> list[str]:
    return [model["name"] for model in ok(answer)["models"]]


def training(asset_id: str, **changes: Any) -> dict[str, Any]:
    """A body as short as the reference allows."""
    items = [{"assets_id": asset_id}]
    return {
        "name": "cat",
        "base_model": "tiny",
        "width": 512,
        "height": 512,
        "image_dataset_items": items,
    } | changes


def drawing(**changes: Any) -> dict[str, Any]:
    """A body as the reference has it."""
    request = {
        "model_name": "tiny",
        "prompt": "a cat",
        "width": 512,
        "height": 512,
        "image_num": 1,
        "steps": 20,
        "guidance_scale": 7.5,
        "sampler_name": "Euler a",
    }
    return {"extra": {"response_image_type": "jpeg"}, "request": request | changes}


class TestAddresses:
    """Base addresses, paths and slashes."""

    @pytest.mark.parametrize("path", ["/v3/training/", "/v3/model/", "/v3/user/", "/training/", "/v3/training/?x=1"])
    async def test_a_trailing_slash_is_answered_and_not_redirected(self, wire: Wire, path: str) -> None:
        ok(await wire.get(PYTHON, path))

    async def test_a_post_with_a_trailing_slash_stays_one(self, wire: Wire) -> None:
        created = await wire.post(PYTHON, "/v3/training/subject/", training(await wire.upload()))
        assert list(ok(created)) == ["task_id"]

    async def test_the_php_client_leaves_v3_out_of_paths(self, wire: Wire) -> None:
        task_id = ok(await wire.post(PHP, "/training/subject", training(await wire.upload())))["task_id"]
        assert ok(await wire.get(PHP, f"/training/subject?task_id={task_id}"))["task_status"] == "QUEUING"
        drawn = ok(await wire.post(PHP, "/async/txt2img", drawing()))["task_id"]
        assert ok(await wire.get(PHP, f"/async/task-result?task_id={drawn}"))["task"]["task_id"] == drawn

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param("//v3/training/subject", id="a base URL that ends with a slash"),
            pytest.param("http://api.novita.ai/v3/training/subject", id="this server as the proxy of plain http"),
        ],
    )
    async def test_a_post_to_an_address_joined_otherwise(self, wire: Wire, target: str) -> None:
        body = json.dumps(training(await wire.upload())).encode()
        lines = [line.format(host="api.novita.ai", key=wire.client(PYTHON).key) for line in PYTHON]
        reader, writer = await asyncio.open_connection(*wire.host.split(":"))
        head = [f"POST {target} HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(head).encode() + body)
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            await reader.readuntil(b'{"task_id":')
        writer.close()

    async def test_a_client_of_the_published_host_gets_addresses_there(self, wire: Wire) -> None:
        """Its name is made to mean this server, and the client knows no other."""
        lines = ("Host: api.novita.ai", *PYTHON[1:])
        address = ok(await wire.post(lines, "/v3/assets/training_dataset", {"file_extension": "png"}))
        assert address["upload_url"].startswith("http://api.novita.ai/uploads/")
        assert address["headers"] == {"Host": {"values": ["api.novita.ai"]}}


class TestKeys:
    """The key in its header, and calls without one."""

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param("Authorization: {key}", id="JavaScript SDK: bare"),
            pytest.param("Authorization: Bearer{key}", id="no space"),
            pytest.param("authorization: bearer {key}", id="lower case"),
            pytest.param("Authorization: Bearer {key};", id="published curl: semicolon"),
        ],
    )
    async def test_forms_of_the_key(self, wire: Wire, line: str) -> None:
        ok(await wire.get(("Host: {host}", line), "/v3/user"))

    async def test_uploads_and_pictures_are_reached_without_a_key(self, wire: Wire, drawn: str) -> None:
        await wire.upload()
        fetched = await wire.get(KEYLESS, drawn)
        assert (fetched.status, fetched.body) == (200, picture())
        assert fetched.headers["content-type"] == "image/png"

    async def test_a_browsers_upload_carries_its_key_and_says_json(self, wire: Wire) -> None:
        address = ok(await wire.post(PYTHON, "/v3/assets/training_dataset", {"file_extension": "png"}))
        client = wire.client(("Host: {host}", "Authorization: Bearer {key}", "Content-Type: application/json"))
        answer = await asyncio.to_thread(client.put, address["upload_url"], picture())
        assert (answer.status, answer.body) == (200, b"")


class TestBodies:
    """JSON, and what is called so or not."""

    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param((), id="none"),
            pytest.param(("Content-Type:",), id="published curl: empty"),
            pytest.param(("Content-Type: application/x-www-form-urlencoded",), id="curl -d"),
            pytest.param(("Content-Type: text/plain;charset=UTF-8",), id="fetch"),
            pytest.param(("Content-Type: application/json; charset=utf-8",), id="charset"),
        ],
    )
    async def test_content_types(self, wire: Wire, lines: tuple[str, ...]) -> None:
        await wire.drawn_with(await wire.post((*NO_TYPE, *lines), "/v3/async/txt2img", drawing()))

    async def test_a_get_says_json_and_has_no_body(self, wire: Wire) -> None:
        assert "Content-Type: application/json" in PYTHON
        assert ok(await wire.get(PYTHON, "/v3/training"))["tasks"] == []

    async def test_a_get_with_a_body_is_answered_by_its_query(self, wire: Wire) -> None:
        """The reference calls `task_id` a field of the body."""
        task_id = ok(await wire.post(CURL, "/v3/training/subject", training(await wire.upload())))["task_id"]
        target = f"/v3/training/subject?task_id={task_id}"
        ask = partial(wire.client(PYTHON).get, target, "Content-Length: 16", body=b'{"task_id": "x"}')
        answer = await asyncio.to_thread(ask)
        assert ok(answer)["task_id"] == task_id

    async def test_numbers_and_booleans_are_strings(self, wire: Wire) -> None:
        changes = {"width": "256", "height": "256.0", "image_num": "2", "steps": "7", "guidance_scale": "3.5"}
        spec = await wire.drawn_with(
            await wire.post(JAVASCRIPT, "/v3/async/txt2img", drawing(**changes, seed="39", restore_faces="false"))
        )
        assert (spec.width, spec.height, spec.image_num, spec.steps) == (256, 256, 2, 7)
        assert (spec.guidance_scale, spec.seed) == (3.5, 39)

    async def test_fields_that_nobody_documented(self, wire: Wire) -> None:
        body = training(await wire.upload(), user="me", expert_setting={"lora_r": 8, "resolution": "high"})
        spec = await wire.trained_with(await wire.post(PYTHON, "/v3/training/subject", body))
        assert spec.settings.lora_r == 8

    async def test_published_placeholders(self, wire: Wire) -> None:
        body = drawing(
            negative_prompt="",
            sd_vae="",
            seed=None,
            clip_skip=None,
            loras=[{"model_name": "", "strength": None}],
            embeddings=[{"model_name": ""}],
            hires_fix={"target_width": None, "target_height": None, "strength": None, "upscaler": None},
            refiner={"switch_at": None},
        )
        body["extra"] = {
            "response_image_type": "",
            "webhook": {"url": "", "test_mode": {"enabled": False, "return_task_status": ""}},
            "custom_storage": {"aws_s3": {"region": "", "bucket": "", "path": ""}},
            "enterprise_plan": {"enabled": False},
        }
        spec = await wire.drawn_with(await wire.post(CURL, "/v3/async/txt2img", body))
        assert (spec.negative_prompt, spec.vae, spec.loras, spec.embeddings) == ("", None, (), ())
        assert (spec.hires_fix, spec.refiner, spec.clip_skip, spec.format) == (None, None, 1, "png")

    async def test_lengths_are_counted_in_code_points(self, wire: Wire) -> None:
        """As the PHP client writes them: escaped, with a surrogate pair for each."""
        body = json.dumps(drawing(prompt="\N{CAT FACE}" * 1024)).replace("/", "\\/").encode()
        assert b"\\ud83d\\udc31" in body
        spec = await wire.drawn_with(await wire.post(PHP, "/v3/async/txt2img", body))
        assert spec.prompt == "\N{CAT FACE}" * 1024
        too_long = await wire.post(PYTHON, "/v3/async/txt2img", drawing(prompt="\N{CAT FACE}" * 1025))
        assert (too_long.status, too_long.json()["reason"]) == (400, "INVALID_REQUEST_BODY")

    async def test_a_compact_body_as_javascript_writes_it(self, wire: Wire) -> None:
        body = json.dumps(drawing(prompt="ein Käfer"), separators=(",", ":"), ensure_ascii=False).encode()
        assert (await wire.drawn_with(await wire.post(JAVASCRIPT, "/v3/async/txt2img", body))).prompt == "ein Käfer"


class TestUploads:
    """Addresses for pictures, and the pictures' bytes."""

    @pytest.mark.parametrize("extension", ["jpg", "JPG", ".jpeg", "jpeg", "png", "PNG", "webp"])
    async def test_raw_suffixes_of_file_names(self, wire: Wire, extension: str) -> None:
        address = ok(await wire.post(PYTHON, "/v3/assets/training_dataset", {"file_extension": extension}))
        assert address["method"] == "PUT"
        assert address["upload_url"].startswith(f"http://{wire.host}/")
        assert (await wire.put(address["upload_url"], picture())).status == 200

    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param(("Content-type: image/jpeg",), id="Python SDK"),
            pytest.param((), id="none"),
            pytest.param(("Content-Type: image/png",), id="png"),
            pytest.param(("Content-Type: application/octet-stream",), id="curl -T"),
        ],
    )
    async def test_content_types_of_pictures(self, wire: Wire, lines: tuple[str, ...]) -> None:
        address = ok(await wire.post(PYTHON, "/v3/assets/training_dataset", {"file_extension": "jpeg"}))
        for kind in ("jpeg", "png", "webp"):
            answer = await wire.put(address["upload_url"], picture(kind), *lines)
            assert (answer.status, answer.body) == (200, b"")

    async def test_curl_and_guzzle_wait_for_continue(self, wire: Wire) -> None:
        address = ok(await wire.post(PYTHON, "/v3/assets/training_dataset", {"file_extension": "png"}))
        upload = wire.client(KEYLESS).put_when_told
        answer = await asyncio.to_thread(upload, address["upload_url"], picture("png", (640, 480)))
        assert (answer.status, answer.body) == (200, b"")

    async def test_ten_threads_upload_at_a_time(self, wire: Wire) -> None:
        assert len(set(await asyncio.gather(*(wire.upload() for _ in range(10))))) == 10

    async def test_the_python_clients_requests_share_a_connection(self, wire: Wire) -> None:
        """Sessions of the Python client send one request after the other over one connection."""
        lines = [line.format(host=wire.host, key=wire.client(PYTHON).key) for line in PYTHON]
        reader, writer = await asyncio.open_connection(*wire.host.split(":"))
        for _ in range(3):
            writer.write("\r\n".join(["GET /v3/training HTTP/1.1", *lines, "", ""]).encode())
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                await reader.readuntil(b"}}")
        writer.close()


class TestTrainings:
    """Trainings: created, asked for and listed."""

    async def test_the_python_clients_subject(self, wire: Wire) -> None:
        setting = {
            "instance_prompt": "a photo of ohwx person",
            "class_prompt": "person",
            "max_train_steps": 400,
            "learning_rate": "1e-4",
            **dict.fromkeys(["seed", "lr_scheduler", "with_prior_preservation", "prior_loss_weight", "lora_r"]),
            **dict.fromkeys(["lora_alpha", "lora_text_encoder_r", "lora_text_encoder_alpha"]),
        }
        body = training(await wire.upload(), expert_setting=setting, components=FACE_COMPONENTS)
        spec = await wire.trained_with(await wire.post(PYTHON, "/v3/training/subject", body))
        assert (spec.settings.max_train_steps, spec.settings.learning_rate) == (400, 1e-4)
        assert spec.preparation == Preparation(width=512, height=512, face_crop_ratio=1.4, face_restore="gfpgan_1.4")

    async def test_the_python_clients_style(self, wire: Wire) -> None:
        items = [{"assets_id": await wire.upload(), "caption": "a caption"}]
        body = training("", image_dataset_items=items, components=None)
        body["expert_setting"] = dict.fromkeys(["instance_prompt", "class_prompt", "max_train_steps", "lora_r"])
        created = await wire.post(PYTHON, "/v3/training/style", body)
        assert [one.caption for one in (await wire.trained_with(created)).pictures] == ["a caption"]
        # It has no call for the status of a style, and asks for that of a subject.
        status = ok(await wire.get(PYTHON, f"/v3/training/subject?task_id={ok(created)['task_id']}"))
        assert (status["model_type"], status["models"]) == ("lora", [])
        assert status["extra"] == {"eta_relative": 0, "progress_percent": 0}

    async def test_a_django_application_writes_settings_as_strings(self, wire: Wire) -> None:
        setting = {
            "max_train_steps": "2000",
            "learning_rate": "0.0003",
            "batch_size": "2",
            "train_text_encoder": "true",
        }
        body = training(await wire.upload(), expert_setting=setting, components=[])
        settings = (await wire.trained_with(await wire.post(PYTHON, "/v3/training/subject", body))).settings
        assert (settings.max_train_steps, settings.learning_rate, settings.train_batch_size) == (2000, 3e-4, 2)
        assert settings.train_text_encoder

    async def test_a_fastapi_demo_sends_all_fifteen_settings_most_of_them_null(self, wire: Wire) -> None:
        setting: dict[str, Any] = {
            "train_batch_size": 2,
            "learning_rate": 0.0001,
            **dict.fromkeys(["max_train_steps", "seed", "lr_scheduler", "lr_warmup_steps", "instance_prompt"]),
            **dict.fromkeys(["class_prompt", "with_prior_preservation", "prior_loss_weight", "train_text_encoder"]),
            **dict.fromkeys(["lora_r", "lora_alpha", "lora_text_encoder_r", "lora_text_encoder_alpha"]),
        }
        assert len(setting) == 15
        body = training(await wire.upload(), expert_setting=setting)
        spec = await wire.trained_with(await wire.post(PYTHON, "/v3/training/subject", body))
        assert (spec.settings.train_batch_size, spec.settings.lora_r) == (2, 16)

    async def test_the_playgrounds_settings(self, wire: Wire) -> None:
        ranks = dict.fromkeys(["lora_r", "lora_alpha", "lora_text_encoder_r", "lora_text_encoder_alpha"], 32)
        setting = {
            "learning_rate": 3e-4,
            "lr_scheduler": "cosine_with_restarts",
            "with_prior_preservation": True,
            "prior_loss_weight": 1.0,
            "seed": 2023,
            "max_train_steps": 200,
        }
        body = training(await wire.upload(), expert_setting=setting | ranks, components=FACE_COMPONENTS)
        spec = await wire.trained_with(await wire.post(PYTHON, "/v3/training/subject", body))
        assert (spec.settings.seed, spec.settings.lora_text_encoder_alpha) == (2023, 32)

    async def test_arguments_of_components_are_numbers(self, wire: Wire) -> None:
        resize = {"name": "resize", "args": [{"name": "width", "value": 256}, {"name": "height", "value": 256.0}]}
        body = training(await wire.upload(), components=[resize])
        spec = await wire.trained_with(await wire.post(PYTHON, "/v3/training/subject", body))
        assert (spec.preparation.width, spec.preparation.height) == (256, 256)

    async def test_an_asset_id_that_is_a_number_is_read(self, wire: Wire) -> None:
        """One generation of the reference has it so. There is none of that kind here, and the answer says which."""
        items = [{"assets_id": await wire.upload()}, {"assets_id": 100024}]
        refused = await wire.post(CURL, "/v3/training/subject", training("", image_dataset_items=items))
        assert (refused.status, refused.json()["reason"]) == (400, "INVALID_REQUEST_BODY")
        assert refused.json()["message"].startswith("image_dataset_items[1].assets_id: no picture has been uploaded")

    async def test_a_typescript_clients_body_made_up_from_hearsay_is_told_what_is_missing(self, wire: Wire) -> None:
        body = {"name": "cat", "instance_prompt": "ohwx cat", "dataset": {"images": [{"image_url": "https://x"}]}}
        refused = await wire.post(JAVASCRIPT, "/v3/training/subject", body)
        assert (refused.status, refused.json()["reason"]) == (400, "INVALID_REQUEST_BODY")
        assert refused.json()["message"].startswith("base_model: is required")

    async def test_the_list_without_a_limit_and_of_one_type(self, wire: Wire) -> None:
        asset_id = await wire.upload()
        created = [
            ok(await wire.post(PYTHON, f"/v3/training/{kind}", training(asset_id)))["task_id"]
            for kind in ("subject", "style")
        ]

        async def listed(query: str) -> list[str]:
            return [task["task_id"] for task in ok(await wire.get(PYTHON, f"/v3/training{query}"))["tasks"]]

        assert await listed("") == created[::-1]
        assert await listed("?task_type=style") == created[1:]
        assert await listed("?pagination.limit=10&pagination.cursor=c_0") == created[::-1]
        assert await listed("?pagination[limit]=1&pagination[cursor]=c_1") == created[:1]
        assert await listed("?pagination.limit=10&pagination.cursor=c_10") == []


class TestModels:
    """GET /v3/model: filters and cursors."""

    @pytest.fixture(autouse=True)
    async def soft(self, wire: Wire, database: Database) -> None:
        """An autoencoder beside the checkpoint `tiny`."""
        async with database.write() as conn:
            await bases.register(conn, Base(name="soft", kind="vae", family="sd15", location="/x", sha256=SHA256))

    async def test_the_python_client_misspells_a_filter_and_doubles_a_prefix(self, wire: Wire) -> None:
        query = "filter.visibility=public&filter.type={}&pagination.cursor=c_c_0&filter.is_inpainting=False"
        assert names(await wire.get(PYTHON, f"/v3/model?{query.format('vae')}&pagination.limit=10")) == ["soft"]
        assert names(await wire.get(PYTHON, f"/v3/model?{query.format('lora')}&pagination.limit=10")) == []

    async def test_the_javascript_client_writes_brackets(self, wire: Wire) -> None:
        plain = "/v3/model?filter[visibility]=public&filter[types]=vae&pagination[limit]=10&pagination[cursor]=c_0"
        escaped = plain.replace("[", "%5B").replace("]", "%5D")
        assert names(await wire.get(JAVASCRIPT, plain)) == names(await wire.get(JAVASCRIPT, escaped)) == ["soft"]

    @pytest.mark.parametrize(
        "query",
        [
            "filter[types][]=vae&filter[types][]=lora",
            "filter%5Btypes%5D%5B%5D=vae",
            "filter[types][0]=vae&filter[types][1]=lora",
            "filter.types[]=vae&filter.types[]=lora",
            "filter.types=vae&filter.types=lora",
        ],
    )
    async def test_lists_have_brackets_or_numbers(self, wire: Wire, query: str) -> None:
        """The JavaScript client numbers them."""
        assert names(await wire.get(JAVASCRIPT, f"/v3/model?{query}")) == ["soft"]

    @pytest.mark.parametrize("flag", ["0", "false", "False", "f"])
    async def test_booleans_as_go_php_and_python_write_them(self, wire: Wire, flag: str) -> None:
        query = f"filter.is_nsfw={flag}&filter.is_sdxl={flag}&filter.is_inpainting={flag}"
        assert names(await wire.get(PHP, f"/v3/model?{query}")) == ["tiny", "soft"]

    async def test_the_php_client_reads_a_cursor_until_it_is_empty(self, wire: Wire) -> None:
        cursor, seen = "c_0", []
        while cursor:
            page = await wire.get(PHP, f"/v3/model?filter.is_nsfw=0&pagination.limit=1&pagination.cursor={cursor}")
            seen += names(page)
            cursor = page.json()["pagination"]["next_cursor"]
        assert seen == ["tiny", "soft"]


class TestPictures:
    """Pictures: asked for, and their results."""

    async def test_the_python_clients_picture_from_words(self, wire: Wire) -> None:
        unset = dict.fromkeys(["sd_vae", "seed", "negative_prompt", "embeddings", "refiner", "hires_fix", "clip_skip"])
        created = await wire.post(PYTHON, "/v3/async/txt2img", drawing(**unset, loras=None) | {"extra": PYTHON_EXTRA})
        spec = await wire.drawn_with(created)
        assert (spec.format, spec.width, spec.steps) == ("jpeg", 512, 20)

    async def test_the_python_clients_picture_from_a_picture(self, wire: Wire) -> None:
        request = drawing(
            image_base64=b64encode(picture()).decode(),
            steps=None,
            seed=-1,
            strength=0.5,
            extra={},
            **dict.fromkeys(["negative_prompt", "sd_vae", "loras", "embeddings", "clip_skip", "controlnet"]),
        )
        spec = await wire.drawn_with(await wire.post(PYTHON, "/v3/async/img2img", request | {"extra": PYTHON_EXTRA}))
        assert (spec.original_strength, spec.steps) == (0.5, 20)

    async def test_the_python_client_reads_extra_whatever_the_status(self, wire: Wire) -> None:
        created = ok(await wire.post(PYTHON, "/v3/async/txt2img", drawing(seed=42)))
        answer = await wire.get(PYTHON, f"/v3/async/task-result?task_id={created['task_id']}")
        assert ok(answer)["extra"]["seed"] == "42"
        assert [ok(answer)[field] for field in ("images", "videos", "audios")] == [[], [], []]
        assert answer.json()["task"]["progress_percent"] == 0

    async def test_a_request_without_extra(self, wire: Wire) -> None:
        await wire.drawn_with(await wire.post(JAVASCRIPT, "/v3/async/txt2img", {"request": drawing()["request"]}))


class TestErrors:
    """What clients make of errors."""

    @pytest.mark.parametrize(
        "send",
        [
            pytest.param(lambda client: client.get("/v3/nope"), id="unknown call"),
            pytest.param(lambda client: client.get("/v3/async/task-result?task_id=x"), id="unknown task"),
            pytest.param(lambda client: client.post("/v3/async/txt2img", b""), id="no body"),
            pytest.param(lambda client: client.post("/v3/async/txt2img", b"null"), id="null"),
            pytest.param(lambda client: client.put("/uploads/a/b.png", b"x"), id="altered address"),
        ],
    )
    async def test_the_javascript_client_reads_four_fields(
        self, wire: Wire, send: Callable[[WireClient], Answer]
    ) -> None:
        answer = await asyncio.to_thread(send, wire.client(JAVASCRIPT))
        error = answer.json()
        assert answer.headers["content-type"].startswith("application/json")
        assert error["code"] == answer.status != 200
        assert (error["metadata"], bool(error["reason"]), bool(error["message"])) == ({}, True, True)
