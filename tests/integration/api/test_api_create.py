"""A training is created whole, or not at all."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import select

from maquette.core.errors import MaquetteError
from maquette.core.ids import sha256_hex
from maquette.core.specs import DEFAULT_STEPS_PER_PICTURE, LrScheduler, TrainingSpec
from maquette.db.engine import Database
from maquette.db.tables import assets, dataset_items, events, tasks
from maquette.families.registry import FAMILIES, load_spec
from maquette.server.app import create_app
from maquette.server.assets import service
from maquette.server.bases import service as bases
from maquette.server.bases.repository import Base
from maquette.server.settings import Settings
from maquette.storage.base import Storage
from maquette.testing.api import Api, Traces, picture, reason
from maquette.testing.factories import SHA256


async def spec_of(database: Database, task_id: str) -> TrainingSpec:
    async with database.read() as conn:
        stored = await conn.scalar(select(tasks.c.spec).where(tasks.c.id == task_id))
    return msgspec.convert(stored, TrainingSpec)


async def sealed_keys(database: Database) -> list[str]:
    async with database.read() as conn:
        rows = await conn.execute(select(dataset_items.c.object_key).order_by(dataset_items.c.position))
        return list(rows.scalars())


@pytest.mark.parametrize("task_type", ["subject", "style"])
async def test_a_task_its_dataset_and_its_event_are_born_together(
    api: Api, database: Database, traces: Traces, task_type: str
) -> None:
    items = [{"assets_id": await api.upload(), "caption": "a red wall"}, {"assets_id": await api.upload()}]
    before = await traces.count()
    response = await api.train(task_type, image_dataset_items=items)
    assert response.status_code == 200
    assert list(response.json()) == ["task_id"]
    after = await traces.count()
    born = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert born == {"tasks": 1, "datasets": 1, "dataset_items": 2, "events": 1, "objects": 2, "counters": 3}
    spec = await spec_of(database, response.json()["task_id"])
    assert spec.task_type == task_type
    assert [item.name for item in spec.pictures] == [f"0{n}-{item['assets_id']}.png" for n, item in enumerate(items)]
    assert [item.sha256 for item in spec.pictures] == [sha256_hex(picture())] * 2
    assert [item.caption for item in spec.pictures] == ["a red wall", None]
    assert (spec.base.name, spec.base.family, spec.base.sha256) == ("tiny", "sd15", SHA256)
    async with database.read() as conn:
        event = (await conn.execute(select(events.c.kind, events.c.data))).one()
    assert (event.kind, event.data) == ("task", {"from": None, "to": "QUEUING", "reason": "created"})


async def test_every_default_is_pinned(api: Api, database: Database) -> None:
    items = [{"assets_id": await api.upload(picture(colour=colour))} for colour in ("red", "green", "blue")]
    first = await spec_of(database, await api.task(image_dataset_items=items))
    second = await spec_of(database, await api.task(image_dataset_items=items))
    assert msgspec.structs.asdict(replace(first.settings, seed=1)) == {
        "train_batch_size": 1,
        "learning_rate": 1e-4,
        "max_train_steps": 600,
        "seed": 1,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "instance_prompt": "a photo of ohwx person",
        "class_prompt": "person",
        "with_prior_preservation": False,
        "prior_loss_weight": 1.0,
        "train_text_encoder": False,
        "lora_r": 16,
        "lora_alpha": 16,
        "lora_text_encoder_r": 16,
        "lora_text_encoder_alpha": 16,
        "caption_dropout": 0.0,
        "shuffle_tags": False,
        "random_flip": False,
        "optimizer": "adamw",
        "snr_gamma": 0.0,
        "noise_offset": 0.0,
        "zero_terminal_snr": False,
    }
    assert first.settings.seed != second.settings.seed


async def test_the_body_as_the_python_sdk_sends_it(api: Api, database: Database) -> None:
    asset_id = await api.upload(picture("jpeg"), "jpeg")
    task_id = await api.task(
        width=512,
        height=512,
        image_dataset_items=[{"assets_id": asset_id}],
        expert_setting={
            "instance_prompt": "a photo of ohwx person",
            "class_prompt": "person",
            "max_train_steps": 400,
            "learning_rate": "1e-4",
            "seed": None,
            "lr_scheduler": None,
            "with_prior_preservation": None,
            "prior_loss_weight": None,
            "lora_r": 16,
            "lora_alpha": None,
            "lora_text_encoder_r": None,
            "lora_text_encoder_alpha": None,
        },
        components=[
            {"name": "face_crop_region", "args": [{"name": "ratio", "value": "1.4"}]},
            {"name": "resize", "args": [{"name": "height", "value": "512"}, {"name": "width", "value": "384"}]},
            {
                "name": "face_restore",
                "args": [{"name": "method", "value": "gfpgan_1.4"}, {"name": "upscale", "value": "1.0"}],
            },
        ],
    )
    spec = await spec_of(database, task_id)
    assert spec.settings.max_train_steps == 400
    assert (spec.preparation.width, spec.preparation.height) == (384, 512)
    assert spec.preparation.face_crop_ratio == 1.4


async def test_a_trigger_word_is_in_every_caption_that_the_task_pins(api: Api, database: Database) -> None:
    asset_id = await api.upload()
    captions = ["on a sofa", "a sks dog asleep", None]
    task_id = await api.task(
        image_dataset_items=[{"assets_id": asset_id, "caption": caption} for caption in captions],
        expert_setting={"trigger_word": "sks", "class_prompt": "dog", "caption_dropout": "0.1", "shuffle_tags": "true"},
        components=[{"name": "background", "args": [{"name": "color", "value": "#808080"}]}],
    )
    spec = await spec_of(database, task_id)
    assert [item.caption for item in spec.pictures] == ["sks dog, on a sofa", "a sks dog asleep", None]
    assert spec.settings.instance_prompt == spec.sample.prompt == "a photo of sks dog"
    assert (spec.settings.caption_dropout, spec.settings.shuffle_tags) == (0.1, True)
    assert spec.preparation.background == "#808080"
    task = (await api.http.get(f"/v3/training/{task_id}")).json()
    assert [item["caption"] for item in task["pictures"]][2] == "a photo of sks dog"


async def test_batch_size_is_an_alias(api: Api, database: Database) -> None:
    spec = await spec_of(database, await api.task(expert_setting={"batch_size": "3"}))
    assert spec.settings.train_batch_size == 3
    spec = await spec_of(database, await api.task(expert_setting={"batch_size": 3, "train_batch_size": 2}))
    assert spec.settings.train_batch_size == 2


async def test_unknown_foreign_and_empty_assets_read_the_same(api: Api, stranger: Api, traces: Traces) -> None:
    mine = await api.upload()
    missing = ["0" * 32, 100024, "not an id \u00e9", await stranger.upload(), (await api.asset())["assets_id"]]
    before = await traces.count()
    messages: set[str] = set()
    for asset_id in missing:
        response = await api.train(image_dataset_items=[{"assets_id": mine}, {"assets_id": asset_id}])
        assert reason(response) == (400, "INVALID_REQUEST_BODY")
        messages.add(response.json()["message"])
    assert messages == {"image_dataset_items[1].assets_id: no picture has been uploaded under this id; upload it first"}
    assert await traces.count() == before


async def test_an_unknown_base_names_the_known_ones(api: Api, traces: Traces) -> None:
    items = [{"assets_id": await api.upload()}]
    before = await traces.count()
    response = await api.train(base_model="v1-5-pruned", image_dataset_items=items)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == "base_model: unknown base model 'v1-5-pruned'; this server has tiny"
    assert await traces.count() == before


async def test_fifty_pictures_are_taken(api: Api, traces: Traces) -> None:
    asset_id = await api.upload()
    response = await api.train(image_dataset_items=[{"assets_id": asset_id}] * 50)
    assert response.status_code == 200
    assert (await traces.count())["dataset_items"] == 50


async def test_the_operators_limits_hold(
    api: Api, settings: Settings, database: Database, storage: Storage, traces: Traces
) -> None:
    strict = replace(settings, max_pictures=2, max_train_steps=150)
    tenant = Api(create_app(strict, database, storage), api.http.headers["authorization"])
    item = {"assets_id": await api.upload()}
    before = await traces.count()
    response = await tenant.train(image_dataset_items=[item] * 3)
    assert response.json()["message"] == "image_dataset_items: must be a list of 1 to 2 items, got 3 items"
    response = await tenant.train(image_dataset_items=[item], expert_setting={"max_train_steps": 151})
    assert response.json()["message"] == (
        "expert_setting.max_train_steps: must be between 1 and 150 on this server, got 151"
    )
    warming_up = {"lr_scheduler": "linear", "lr_warmup_steps": 150}
    response = await tenant.train(image_dataset_items=[item], expert_setting=warming_up)
    assert "must be less than max_train_steps, 150 here" in response.json()["message"]
    assert await traces.count() == before
    spec = await spec_of(database, await tenant.task(image_dataset_items=[item]))
    assert spec.settings.max_train_steps == 150


async def test_a_sealed_picture_is_out_of_every_uploads_reach(api: Api, database: Database, storage: Storage) -> None:
    asset = await api.asset()
    await api.http.put(asset["upload_url"], content=picture(colour="red"))
    item = {"assets_id": asset["assets_id"]}
    await api.task(image_dataset_items=[item])
    (sealed,) = await sealed_keys(database)
    await api.http.put(asset["upload_url"], content=picture(colour="blue"))
    assert await storage.get(sealed) == picture(colour="red")
    again = await spec_of(database, await api.task(image_dataset_items=[item]))
    assert again.pictures[0].sha256 == sha256_hex(picture(colour="blue"))
    assert {await storage.get(key) for key in await sealed_keys(database)} == {
        picture(colour="red"),
        picture(colour="blue"),
    }


async def test_a_second_task_takes_the_same_sealed_copy(api: Api, database: Database, traces: Traces) -> None:
    items = [{"assets_id": await api.upload()}]
    await api.task(image_dataset_items=items)
    objects = (await traces.count())["objects"]
    await api.task(image_dataset_items=items)
    assert len(set(await sealed_keys(database))) == 1
    assert (await traces.count())["objects"] == objects


async def test_an_upload_between_draft_and_seal_is_a_conflict_not_a_mixture(
    api: Api, database: Database, storage: Storage
) -> None:
    asset = await api.asset()
    await api.http.put(asset["upload_url"], content=picture(colour="red"))
    async with database.read() as conn:
        tenant_id = await conn.scalar(select(assets.c.tenant_id))
        assert tenant_id is not None
        drafted = await service.uploaded(conn, tenant_id, [asset["assets_id"]])
    await api.http.put(asset["upload_url"], content=picture(colour="blue"))
    with pytest.raises(MaquetteError, match="send the request again") as refused:
        await service.seal(storage, tenant_id, drafted.values())
    assert refused.value.status == 409
    # A seal of the older bytes that won the race is not taken for the newer ones.
    (older,) = drafted.values()
    with pytest.raises(MaquetteError, match="send the request again") as refused:
        async with database.write() as conn:
            await service.remember_sealed(conn, tenant_id, [service.SealedAsset(older, "sealed/x")])
    assert refused.value.status == 409
    async with database.read() as conn:
        assert await conn.scalar(select(assets.c.sealed_key)) is None


async def test_tasks_that_take_the_same_pictures_in_any_order_do_not_wait_for_each_other(
    api: Api, database: Database
) -> None:
    assets_ids = [await api.upload() for _ in range(6)]
    orders = [assets_ids, assets_ids[::-1], assets_ids[3:] + assets_ids[:3]] * 4
    responses = await asyncio.gather(
        *(api.train(image_dataset_items=[{"assets_id": asset_id} for asset_id in order]) for order in orders)
    )
    assert [response.status_code for response in responses] == [200] * len(orders)
    async with database.read() as conn:
        numbers = (await conn.execute(select(tasks.c.number).order_by(tasks.c.number))).scalars()
        assert list(numbers) == list(range(1, len(orders) + 1))


async def test_pictures_are_held_out_and_samples_are_pinned_as_asked(api: Api, database: Database) -> None:
    items = [{"assets_id": await api.upload()}, {"assets_id": await api.upload(), "held_out": "true"}]
    settings = {"checkpoint_samples": True, "class_prompt": "dog", "optimizer": "prodigy"}
    spec = await spec_of(database, await api.task(image_dataset_items=items, expert_setting=settings))
    assert [picture.held_out for picture in spec.pictures] == [False, True]
    assert spec.settings.max_train_steps == DEFAULT_STEPS_PER_PICTURE
    assert [sample.prompt for sample in spec.checkpoint_samples] == [spec.sample.prompt, "dog"]
    assert {sample.seed for sample in spec.checkpoint_samples} == {spec.sample.seed}


async def test_a_training_on_nothing_is_refused(api: Api) -> None:
    items = [{"assets_id": await api.upload(), "held_out": True}]
    response = await api.train(image_dataset_items=items)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith("image_dataset_items: ")


UNUSED = {
    "flux1": {"snr_gamma": 5, "noise_offset": 0.05, "zero_terminal_snr": True},
    "captionless": {"train_text_encoder": True},
}
"""By the family, settings that it has no use for."""


@pytest.fixture
def captionless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of another package, whose text encoder can't have a LoRA."""
    (tmp_path / "captionless_family.py").write_text(
        "from msgspec.structs import replace\n"
        "from maquette.families.memory import NO_PART\n"
        "from maquette.families.sd15.spec import SPEC\n"
        "memory = replace(SPEC.memory, trained_encoders=NO_PART, frozen_encoders=SPEC.memory.trained_encoders)\n"
        "keys = {'unet': SPEC.keys['unet']}\n"
        "SPEC = replace(SPEC, name='captionless', title='Captionless', keys=keys, memory=memory)\n",
        encoding="utf-8",
    )
    about = tmp_path / "captionless_family-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: captionless-family\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{FAMILIES.group}]\ncaptionless = captionless_family:SPEC\n")
    monkeypatch.syspath_prepend(tmp_path)


async def test_settings_that_undo_each_other_are_refused(api: Api) -> None:
    response = await api.train(expert_setting={"snr_gamma": 5, "zero_terminal_snr": True})
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == (
        "expert_setting.snr_gamma: must be 0 with zero_terminal_snr, whose noise without signal it weighs by nothing,"
        " got 5; leave one of the two out"
    )
    assert (await api.train(expert_setting={"snr_gamma": 0, "zero_terminal_snr": True})).status_code == 200
    assert (await api.train(expert_setting={"snr_gamma": 5, "zero_terminal_snr": False})).status_code == 200


@pytest.mark.parametrize("scheduler", [name for name in LrScheduler if name is not LrScheduler.CONSTANT])
async def test_a_warm_up_leaves_steps_at_the_rate_that_was_asked_for(api: Api, scheduler: LrScheduler) -> None:
    for steps, warmup in [(2, 2**40), (2, 2), (1, 1)]:
        setting = {"max_train_steps": steps, "lr_scheduler": scheduler, "lr_warmup_steps": warmup}
        response = await api.train(expert_setting=setting)
        assert reason(response) == (400, "INVALID_REQUEST_BODY")
        assert response.json()["message"] == (
            f"expert_setting.lr_warmup_steps: must be less than max_train_steps, {steps} here, or the learning rate"
            f" never gets to its peak; got {warmup}; ask for a shorter warm-up, or for more steps"
        )
    for steps, warmup in [(2, 1), (1, 0)]:
        setting = {"max_train_steps": steps, "lr_scheduler": scheduler, "lr_warmup_steps": warmup}
        assert (await api.train(expert_setting=setting)).status_code == 200


@pytest.mark.usefixtures("captionless")
@pytest.mark.parametrize("family", UNUSED)
async def test_what_a_family_has_no_use_for_is_refused_where_it_asks_for_something(
    api: Api, database: Database, family: str
) -> None:
    async with database.write() as conn:
        await bases.register(conn, Base(name="b", kind="checkpoint", family=family, location="/b", sha256=SHA256))
    for name, asked in UNUSED[family].items():
        response = await api.train(base_model="b", expert_setting={name: asked})
        assert reason(response) == (400, "INVALID_REQUEST_BODY")
        message = response.json()["message"]
        assert message.startswith(f"expert_setting.{name}: {load_spec(family).title} has no use for it, got ")
        assert message.endswith("; leave it out")
        spec = await spec_of(database, await api.task(base_model="b", expert_setting={name: 0}))
        assert not getattr(spec.settings, name)
        spec = await spec_of(database, await api.task(expert_setting={name: asked}))
        assert getattr(spec.settings, name) == asked


async def test_a_family_that_trains_one_of_its_text_encoders_takes_it(api: Api, database: Database) -> None:
    async with database.write() as conn:
        await bases.register(conn, Base(name="b", kind="checkpoint", family="flux1", location="/b", sha256=SHA256))
    spec = await spec_of(database, await api.task(base_model="b", expert_setting={"train_text_encoder": True}))
    assert spec.settings.train_text_encoder
