"""The published list of models and the account's calls, as the known clients ask for them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from maquette.core.drawing import Difference
from maquette.core.errors import InvalidRequest
from maquette.core.lifecycle import TaskStatus
from maquette.db.engine import Database
from maquette.db.move import Judgement, reject_model
from maquette.server.access.repository import tenant_id
from maquette.server.app import create_app
from maquette.server.bases import service as bases
from maquette.server.bases.repository import Base
from maquette.server.bases.service import BaseKind
from maquette.server.settings import Settings
from maquette.storage.base import Storage
from maquette.testing.api import Api, reason
from maquette.testing.factories import SHA256, make_model, make_task

PUBLISHED = (Path(__file__).parents[3] / "golden" / "list_models.json").read_text()
WEIGHTS, SAMPLE = b"weights" * 1000, b"\x89PNG sample"


async def add_base(database: Database, name: str, **changes: Any) -> None:
    fields: dict[str, Any] = {"kind": "checkpoint", "family": "sd15", "location": "/x", "sha256": SHA256}
    async with database.write() as conn:
        await bases.register(conn, Base(name=name, **(fields | changes)))


async def add_model(database: Database, name: str = "cat-01", *, tenant: str = "first") -> str:
    """A new model's task."""
    async with database.write() as conn:
        owner = await tenant_id(conn, tenant)
        task_id = await make_task(conn, owner, status=TaskStatus.SUCCESS, name=name)
        await make_model(conn, owner, task_id)
    return task_id


async def reject(database: Database, task_id: str) -> None:
    judgement = Judgement(judged_with="a worker", message="it is grey", from_sample=Difference(31.5, 212))
    async with database.write() as conn:
        owner = await tenant_id(conn, "first")
        model_id = await conn.exec_driver_sql(f"SELECT id FROM models WHERE task_id = '{task_id}'")
        assert await reject_model(conn, owner, model_id.scalar_one(), judgement)


async def listed(api: Api, query: str = "") -> list[dict[str, Any]]:
    response = await api.http.get(f"/v3/model?{query}")
    assert response.status_code == 200, response.text
    body = response.json()
    assert list(body) == ["models", "pagination"]
    return body["models"]


async def names(api: Api, query: str = "") -> list[str]:
    return [model["name"] for model in await listed(api, query)]


async def test_the_published_shape(api: Api, database: Database) -> None:
    await add_model(database)
    response = await api.http.get("/v3/model")
    text = re.sub(r"model_\d+_[0-9A-F]{10}", "model_1750000540_0A1B2C3D4E", response.text)
    text = re.sub(r"(http://maquette.test/models/)[^\"]*", r"\1…", text)
    assert text == json.dumps(json.loads(PUBLISHED), separators=(",", ":"), ensure_ascii=False)


async def test_the_python_clients_two_walks_see_every_model_once(api: Api, stranger: Api, database: Database) -> None:
    """Both visibilities in pages of 100 from `c_0` on, with the filter's name misspelt, until a page is short."""
    for number in range(103):
        await add_base(database, f"base-{number}")
    for number in range(3):
        await add_model(database, f"own-{number}")
        await add_model(database, f"foreign-{number}", tenant="second")
    found: list[dict[str, Any]] = []
    for visibility in ("public", "private"):
        offset, page = 0, [{}] * 100
        while len(page) == 100:
            page = await listed(
                api, f"filter.visibility={visibility}&pagination.limit=100&pagination.cursor=c_{offset}"
            )
            found += page
            offset += len(page)
    assert len({model["id"] for model in found}) == len(found) == 104 + 3
    assert {model["name"] for model in found} >= {"tiny", "base-102", "own-0"}
    assert await names(api, "filter.visibility=private&filter.type=lora&pagination.cursor=c_c_1") == ["own-1", "own-0"]
    assert await names(stranger, "filter.visibility=private") == ["foreign-2", "foreign-1", "foreign-0"]


async def test_cursors_count_by_the_limit_and_end_with_an_empty_page(api: Api, database: Database) -> None:
    for number in range(4):
        await add_model(database, f"own-{number}")
    cursor, seen = "", []
    for _ in range(4):
        response = (await api.http.get(f"/v3/model?pagination.limit=2&pagination.cursor={cursor}")).json()
        cursor = response["pagination"]["next_cursor"]
        seen.append(([model["name"] for model in response["models"]], cursor))
    assert seen == [(["own-3", "own-2"], "c_2"), (["own-1", "own-0"], "c_4"), (["tiny"], "c_6"), ([], "")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("filter[visibility]=private&pagination[limit]=10", ["own"]),
        ("filter%5Bvisibility%5D=private&filter%5Btypes%5D=lora", ["own"]),
        ("filter.visibility=private&filter.source=training&filter.types=lora", ["own"]),
        ("filter.visibility=public&filter.source=uploading", ["tiny", "soft", "word", "xl", "fine"]),
        ("filter.source=civitai", []),
        ("filter.source=training&filter.visibility=public", []),
        ("filter.types=vae&filter.types=lora", ["own", "soft"]),
        ("filter.types=vae,lora", ["own", "soft"]),
        ("filter[types]=vae&filter.type=textualinversion", ["soft", "word"]),
        ("filter.type=checkpoint", ["tiny", "xl", "fine"]),
        ("filter.types=controlnet", []),
        ("filter.types=upscaler", []),
        ("filter.types=", ["own", "tiny", "soft", "word", "xl", "fine"]),
        ("filter.is_sdxl=True", ["xl", "fine"]),
        ("filter.is_sdxl=f", ["own", "tiny", "soft", "word"]),
        ("filter.is_nsfw=0&filter.is_inpainting=false", ["own", "tiny", "soft", "word", "xl", "fine"]),
        ("filter.is_nsfw=1", []),
        ("filter.is_inpainting=T", []),
        ("filter.query=Wor", ["word"]),
        ("filter.query=subject", ["own"]),
    ],
)
async def test_filters_in_every_spelling(api: Api, database: Database, query: str, expected: list[str]) -> None:
    await add_model(database, "own")
    await add_base(database, "soft", kind="vae")
    await add_base(database, "word", kind="embedding")
    await add_base(database, "xl", family="sdxl")
    await add_base(database, "fine", family="sdxl", kind="refiner")
    assert await names(api, query) == expected


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("filter.visibility=mine", 'filter.visibility: must be one of public, private, got "mine"'),
        ("filter.source=x", 'filter.source: must be one of civitai, training, uploading, got "x"'),
        ("filter.types=lora&filter.types=loras", "filter.types: must be one of checkpoint, lora, vae, controlnet,"),
        ("filter.is_sdxl=yes", "filter.is_sdxl: must be one of 1, t, T,"),
        ("filter.query=%00", "filter.query: must not contain the character U+0000"),
        ("pagination.limit=0", "pagination.limit: must be a whole number between 1 and 100, got"),
        ("pagination.limit=101", "pagination.limit: must be a whole number between 1 and 100, got"),
        ("pagination.cursor=abc", "pagination.cursor: must be empty, or c_ and a number of models to skip"),
        ("filter.query=a&filter.query=b", "filter.query: must be given once"),
    ],
)
async def test_what_can_not_be_read_is_refused(api: Api, query: str, words: str) -> None:
    response = await api.http.get(f"/v3/model?{query}")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(words)


async def test_what_can_not_be_used_has_status_0(api: Api, database: Database) -> None:
    rejected = await add_model(database, "bad")
    await add_model(database, "good")
    await add_base(database, "sd3", family="sd3")
    await add_base(database, "refiner", kind="refiner")
    await add_base(database, "vae", kind="vae")
    await reject(database, rejected)
    assert {model["name"]: model["status"] for model in await listed(api)} == {
        "good": 1,
        "bad": 0,
        "tiny": 1,
        "sd3": 0,
        "refiner": 0,
        "vae": 1,
    }


async def test_the_owner_is_told_why_a_model_was_rejected(api: Api, stranger: Api, database: Database) -> None:
    task_id = await add_model(database)
    before = (await api.http.get(f"/v3/training/{task_id}")).json()["model"]
    assert list(before) == ["model_name", "model_status", "verdict", "message"]
    assert (before["model_status"], before["verdict"], before["message"]) == ("DEPLOYING", "pending", "")
    row = (await api.http.get("/v3/training")).json()["tasks"][0]
    await reject(database, task_id)
    model = (await api.http.get(f"/v3/training/{task_id}")).json()["model"]
    assert (model["model_status"], model["verdict"], model["message"]) == ("DEPLOYING", "rejected", "it is grey")
    assert (model["from_sample"], "from_base" in model) == ({"mean": 31.5, "largest": 212}, False)
    assert (model["judged_with"], isinstance(model["judged_at"], int)) == ("a worker", True)
    assert (await api.http.get("/v3/training")).json()["tasks"][0] == row, "the published row stays as it is"
    assert reason(await stranger.http.get(f"/v3/training/{task_id}")) == (404, "TASK_NOT_FOUND")


async def test_weights_and_cover_are_given_out_without_a_key_until_their_address_expires(
    api: Api, stranger: Api, database: Database, storage: Storage
) -> None:
    task_id = await add_model(database)
    prefix = f"tasks/{task_id}/1"
    (model,) = await listed(api, "filter.visibility=private")
    del api.http.headers["authorization"]
    gone = await api.http.get(model["download_url"])
    assert reason(gone) == (404, "MODEL_NOT_FOUND")
    await storage.put(f"{prefix}/output/lora.safetensors", WEIGHTS)
    await storage.put(f"{prefix}/samples/final.png", SAMPLE)
    weights = await api.http.get(model["download_url"])
    assert (weights.status_code, weights.content) == (200, WEIGHTS)
    assert weights.headers["content-length"] == str(len(WEIGHTS))
    assert weights.headers["content-disposition"] == f'attachment; filename="{model["sd_name"]}"'
    cover = await api.http.get(model["cover_url"])
    assert (cover.content, cover.headers["content-type"]) == (SAMPLE, "image/png")
    url: str = model["download_url"]
    for altered in (
        url.replace(".safetensors?", ".png?"),
        re.sub(r"expires=\d+", "expires=99999999999", url),
        re.sub(r"/models/\w+/", "/models/0123456789abcdef0123456789abcdef/", url),
        url.partition("?")[0],
    ):
        assert reason(await stranger.http.get(altered)) == (403, "MODEL_URL_INVALID")
    database.clock.shift(24 * 3600 + 1)
    assert reason(await api.http.get(url)) == (403, "MODEL_URL_EXPIRED")


async def test_addresses_begin_with_the_public_url_and_live_as_long_as_is_set(
    api: Api, settings: Settings, database: Database, storage: Storage
) -> None:
    await add_model(database)
    set_up = replace(settings, public_url="https://pictures.example/maquette/", model_url_ttl=600)
    abroad = Api(create_app(set_up, database, storage), api.http.headers["authorization"])
    (model,) = await listed(abroad, "filter.visibility=private")
    for field in ("download_url", "cover_url"):
        assert model[field].startswith("https://pictures.example/maquette/models/")
    assert model["download_url_ttl"] == 600


# ------------------------------------------------------------------------------------------------------ names


async def meant(database: Database, name: str, kind: BaseKind = BaseKind.CHECKPOINT) -> str:
    async with database.read() as conn:
        return (await bases.require(conn, name, kind, field="request.model_name")).name


async def test_every_published_name_means_the_base_that_is_registered_by_either(api: Api, database: Database) -> None:
    await add_base(database, "v1-5-pruned-emaonly")
    await add_base(database, "majichenmixrealistic_v10_85701.safetensors")
    await add_base(database, "WFChild_v1.0")
    for name, base in {
        "v1-5-pruned-emaonly.safetensors": "v1-5-pruned-emaonly",
        "v1-5-pruned-emaonly.ckpt": "v1-5-pruned-emaonly",
        "majichenmixrealistic_v10": "majichenmixrealistic_v10_85701.safetensors",
        "majichenmixrealistic_v10_85701": "majichenmixrealistic_v10_85701.safetensors",
        "WFChild_v1.0.ckpt": "WFChild_v1.0",
        "tiny.safetensors": "tiny",
    }.items():
        assert await meant(database, name) == base
    for model in await listed(api, "filter.types=checkpoint"):
        for spelling in (model["name"], model["sd_name"], model["sd_name_in_api"]):
            assert await meant(database, spelling) == model["name"]
    task_id = await api.task(base_model="v1-5-pruned-emaonly.safetensors")
    assert (await api.http.get(f"/v3/training/{task_id}")).json()["base_model"] == "v1-5-pruned-emaonly"


async def test_an_alias_means_its_base_until_a_base_takes_its_name(api: Api, database: Database) -> None:
    await add_base(database, "other")
    async with database.write() as conn:
        await bases.add_alias(conn, "sd_xl_base_1.0", "tiny")
    for name in ("sd_xl_base_1.0", "sd_xl_base_1.0.safetensors", "stable-diffusion-xl-base-1.0"):
        assert await meant(database, name) == "tiny"
    task_id = await api.task(base_model="stable-diffusion-xl-base-1.0")
    assert (await api.http.get(f"/v3/training/{task_id}")).json()["base_model"] == "tiny"
    async with database.write() as conn:
        await bases.add_alias(conn, "sd_xl_base_1.0", "other")
    assert await meant(database, "sd_xl_base_1.0") == "other"
    await add_base(database, "sd_xl_base_1.0")
    assert await meant(database, "sd_xl_base_1.0") == "sd_xl_base_1.0"
    async with database.read() as conn:
        assert [base.aliases for base in await bases.list_all(conn)] == [[], [], []]


async def test_a_name_of_another_kind_and_an_unknown_one_are_refused_with_those_there_are(
    api: Api, database: Database
) -> None:
    await add_base(database, "soft", kind="vae")
    for name, kind, words in (
        ("soft", BaseKind.CHECKPOINT, "'soft' is registered as VAE; this server has tiny"),
        ("tiny", BaseKind.VAE, "'tiny' is registered as base model; this server has soft"),
        ("x", BaseKind.EMBEDDING, "unknown embedding 'x'; this server has none yet"),
        ("WFChild_v1.0.ckpt", BaseKind.CHECKPOINT, r"'WFChild_v1.0.ckpt' is a published name under which nothing is"),
    ):
        with pytest.raises(InvalidRequest, match=f"^request.model_name: {words}"):
            await meant(database, name, kind)
    response = await api.train(base_model="soft")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")


def test_what_does_not_fit_a_checkpoint_is_told() -> None:
    tiny = Base(
        name="tiny", kind="checkpoint", family="sd15", location="", sha256="", text_width=128, latent_channels=8
    )
    bases.check_fits(replace(tiny, kind="vae", text_width=None), tiny, field="sd_vae")
    for change, words in (
        ({"family": "sdxl"}, "'tiny' is of the family sdxl; 'tiny' has sd15"),
        ({"text_width": 768}, "'tiny' is for text encoders with 768 numbers in a vector; 'tiny' has 128"),
        ({"latent_channels": 4}, "'tiny' is for latents of 4 channels; 'tiny' has 8"),
    ):
        with pytest.raises(InvalidRequest, match=f"^sd_vae: {words}$"):
            bases.check_fits(replace(tiny, **change), tiny, field="sd_vae")


# ------------------------------------------------------------------------------------------------------ the account


async def test_the_account_is_as_published_and_rich(api: Api) -> None:
    user = await api.http.get("/v3/user")
    assert user.content == b'{"allow_features":[],"credit_balance":1000000000,"free_trial":{"training":0}}'
    balance = await api.http.get("/v3/user/balance")
    assert balance.json() == {
        "availableBalance": "1000000000",
        "cashBalance": "1000000000",
        "creditLimit": "0",
        "outstandingInvoices": "0",
    }
