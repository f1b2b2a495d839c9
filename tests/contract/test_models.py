"""The parity gate's statements, and the list of models page by page."""

from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.drawing import Difference
from maquette.core.lifecycle import TaskStatus
from maquette.core.specs import TaskType
from maquette.db.engine import Database
from maquette.db.events import list_events
from maquette.db.move import Judgement, pass_model, reject_model
from maquette.db.tables import models
from maquette.server.bases import service as bases
from maquette.server.bases.repository import Base
from maquette.server.models import gate, service
from maquette.server.models.repository import ListedModel, ModelFilter, list_page
from maquette.testing.factories import SHA256, make_model, make_task, make_tenant

WORKER = service.worker_text({"torch": "2.13", "diffusers": "0.42"})
NEAR, FAR = Difference(0.25, 3), Difference(31.5, 212)
HERE = f"{WORKER} on tiny 0123456789"
OTHER = service.worker_text({"torch": "2.14"})
PASSED = Judgement(judged_with=HERE, from_sample=NEAR, from_base=FAR)
REJECTED = Judgement(judged_with=HERE, message="it is 31.5 away", from_sample=FAR, from_base=NEAR)


async def add_base(conn: AsyncConnection, name: str, **changes: Any) -> None:
    fields: dict[str, Any] = {"kind": "checkpoint", "family": "sd15", "location": f"/bases/{name}", "sha256": SHA256}
    await bases.register(conn, Base(name=name, **(fields | changes)))


async def trained(conn: AsyncConnection, tenant_id: str, name: str = "cat-01", **wanted: Any) -> tuple[str, str]:
    """Ids of a task that succeeded, and of its model."""
    task_id = await make_task(conn, tenant_id, status=TaskStatus.SUCCESS, name=name, **wanted)
    return task_id, await make_model(conn, tenant_id, task_id)


async def row(conn: AsyncConnection, model_id: str) -> RowMapping:
    return (await conn.execute(select(models).where(models.c.id == model_id))).mappings().one()


def verdict(found: RowMapping) -> tuple[object, ...]:
    names = ("from_sample_mean", "from_sample_largest", "from_base_mean", "from_base_largest")
    return (found["status"], found["verdict"], found["verdict_message"], *(found[name] for name in names))


async def test_a_model_that_passes_serves_and_its_history_has_the_distances(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id, model_id = await trained(conn, tenant_id)
        moved = await pass_model(conn, tenant_id, model_id, PASSED)
        assert moved is not None
        assert verdict(await row(conn, model_id)) == ("SERVING", "passed", "", 0.25, 3, 31.5, 212)
        (event,) = await list_events(conn, tenant_id, task_id, after=moved.event_number - 1)
        assert (event.kind, event.data["to"], event.data["reason"]) == ("model", "SERVING", "parity_passed")
        assert event.data["from_sample"] == {"mean": 0.25, "largest": 3}
        assert event.data["from_base"] == {"mean": 31.5, "largest": 212}


async def test_a_model_that_serves_is_judged_no_more(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id, model_id = await trained(conn, tenant_id)
        await pass_model(conn, tenant_id, model_id, PASSED)
        before = await row(conn, model_id), await list_events(conn, tenant_id, task_id)
        assert await pass_model(conn, tenant_id, model_id, PASSED) is None
        assert await reject_model(conn, tenant_id, model_id, REJECTED) is None
        assert (await row(conn, model_id), await list_events(conn, tenant_id, task_id)) == before


async def test_a_rejected_model_stays_deploying_and_its_history_says_what_differed(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id, model_id = await trained(conn, tenant_id)
        moved = await reject_model(conn, tenant_id, model_id, REJECTED)
        assert moved is not None
        assert verdict(await row(conn, model_id)) == ("DEPLOYING", "rejected", "it is 31.5 away", 31.5, 212, 0.25, 3)
        (event,) = await list_events(conn, tenant_id, task_id, after=moved.event_number - 1)
        assert event.kind == "model_rejected"
        assert event.data == {
            "model_id": model_id,
            "message": "it is 31.5 away",
            "from_sample": {"mean": 31.5, "largest": 212},
            "from_base": {"mean": 0.25, "largest": 3},
        }
        assert await reject_model(conn, tenant_id, model_id, REJECTED) is None, "the same once more is no news"
        undrawn = Judgement(judged_with="another worker", message="unmatched keys")
        assert await reject_model(conn, tenant_id, model_id, undrawn)
        assert verdict(await row(conn, model_id)) == ("DEPLOYING", "rejected", "unmatched keys", *[None] * 4)
        assert await pass_model(conn, tenant_id, model_id, PASSED), "a mended worker lets it through"
        assert verdict(await row(conn, model_id)) == ("SERVING", "passed", "", 0.25, 3, 31.5, 212)


async def test_another_tenants_model_is_not_judged(database: Database) -> None:
    async with database.write() as conn:
        owner, other = await make_tenant(conn), await make_tenant(conn)
        _, model_id = await trained(conn, owner)
        before = await row(conn, model_id)
        assert await pass_model(conn, other, model_id, PASSED) is None
        assert await reject_model(conn, other, model_id, REJECTED) is None
        assert await row(conn, model_id) == before


async def test_the_gate_gets_all_it_needs_to_replay(database: Database) -> None:
    async with database.write() as conn:
        await add_base(conn, "tiny")
        tenant_id = await make_tenant(conn)
        task_id, model_id = await trained(conn, tenant_id)
        (found,) = await service.to_judge(conn, [WORKER], 10)
        stored = await row(conn, model_id)
        assert (found.id, found.tenant_id, found.task_id, found.name) == (model_id, tenant_id, task_id, stored["name"])
        assert (found.object_key, found.sample_key, found.sha256) == tuple(
            stored[name] for name in ("object_key", "sample_key", "sha256")
        )
        assert (found.base_name, found.base_location) == ("tiny", "/bases/tiny")
        assert service.judged_with(WORKER, found) == HERE
        assert (found.attempts, found.lost_workers) == (0, 0)
        assert (found.spec.sample.seed, found.spec.sample.width) == (1, 128)


async def test_a_rejected_model_is_judged_again_by_another_worker_or_with_another_base_alone(
    database: Database,
) -> None:
    async with database.write() as conn:
        await add_base(conn, "tiny")
        tenant_id = await make_tenant(conn)
        _, model_id = await trained(conn, tenant_id)
        await reject_model(conn, tenant_id, model_id, REJECTED)
        assert await service.to_judge(conn, [WORKER], 10) == []
        assert await service.to_judge(conn, [], 10) == [], "while the worker is not known, pending ones alone"
        assert [model.id for model in await service.to_judge(conn, [OTHER], 10)] == [model_id]
        assert await service.to_judge(conn, [OTHER, WORKER], 10) == [], "who judges it may be the one that has"
        await add_base(conn, "tiny", sha256="f" * 64)
        assert await service.to_judge(conn, [OTHER], 10) == [], "there is nothing to judge it with"
        await add_base(conn, "by another name", location="/elsewhere")
        (again,) = await service.to_judge(conn, [WORKER], 10)
        assert again.base_location == "/elsewhere"
        assert service.judged_with(WORKER, again) == f"{WORKER} on by another name 0123456789"


async def test_two_servers_of_other_kinds_judge_a_model_once_each(database: Database) -> None:
    """However often either looks: neither forgets what it has judged for what the other has."""
    async with database.write() as conn:
        await add_base(conn, "tiny")
        tenant_id = await make_tenant(conn)
        task_id, model_id = await trained(conn, tenant_id)
        for worker in (WORKER, OTHER):
            (due,) = await service.to_judge(conn, [worker], 10)
            rejected = replace(REJECTED, judged_with=service.judged_with(worker, due))
            assert await reject_model(conn, tenant_id, model_id, rejected)
        assert await service.to_judge(conn, [WORKER], 10) == await service.to_judge(conn, [OTHER], 10) == []
        assert await reject_model(conn, tenant_id, model_id, REJECTED) is None, "late, and no news"
        events = await list_events(conn, tenant_id, task_id)
        assert [event.kind for event in events].count("model_rejected") == 2


async def test_with_other_bounds_a_rejected_model_is_judged_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.write() as conn:
        await add_base(conn, "tiny")
        tenant_id = await make_tenant(conn)
        _, model_id = await trained(conn, tenant_id)
        assert not await service.any_rejected(conn)
        await reject_model(conn, tenant_id, model_id, REJECTED)
        assert await service.any_rejected(conn)
        monkeypatch.setattr(gate, "BOUNDS", "wider ones")
        here = service.worker_text({"torch": "2.13", "diffusers": "0.42"})
        assert [model.id for model in await service.to_judge(conn, [here], 10)] == [model_id]


async def test_a_pending_model_whose_base_is_gone_is_told_so(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        await trained(conn, tenant_id)
        (found,) = await service.to_judge(conn, [], 10)
        assert (found.base_name, found.base_location) == (None, None)
        assert service.judged_with(WORKER, found) == f"{WORKER} on no base"


async def test_models_are_judged_in_turn_and_a_broken_judgement_waits(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        first, second, third = [(await trained(conn, tenant_id))[1] for _ in range(3)]
        assert [model.id for model in await service.to_judge(conn, [WORKER], 2)] == [first, second]
        (due, *_) = await service.to_judge(conn, [WORKER], 10)
        await service.postpone(conn, due, 30, "a worker was lost", lost_workers=2)
        assert [model.id for model in await service.to_judge(conn, [WORKER], 10)] == [second, third]
    database.clock.shift(31)
    async with database.write() as conn:
        (due, *_) = await service.to_judge(conn, [WORKER], 10)
        assert (due.id, due.attempts, due.lost_workers) == (first, 1, 2)
        assert verdict(await row(conn, first)) == ("DEPLOYING", "pending", "a worker was lost", *[None] * 4)
        await reject_model(conn, tenant_id, first, REJECTED)
        judged = await row(conn, first)
        assert (judged["attempts"], judged["lost_workers"]) == (0, 0)
        await service.postpone(conn, due, 30, "the storage is away")
        assert (await row(conn, first))["verdict_message"] == "it is 31.5 away", "it stays rejected, for that reason"
        await pass_model(conn, tenant_id, second, PASSED)
        assert [model.id for model in await service.to_judge(conn, [], 10)] == [third]


async def test_a_lora_is_found_by_its_file_and_by_its_stem_by_its_owner_alone(database: Database) -> None:
    async with database.write() as conn:
        owner, other = await make_tenant(conn), await make_tenant(conn)
        _, model_id = await trained(conn, owner)
        await trained(conn, other)
        stored = await row(conn, model_id)
        lora = await service.find_lora(conn, owner, stored["name"])
        assert lora is not None
        assert (lora.id, lora.object_key, lora.sha256) == (model_id, stored["object_key"], SHA256)
        assert (lora.status, lora.verdict, lora.verdict_message) == ("DEPLOYING", "pending", "")
        assert (lora.base_name, lora.base_family, lora.base_sha256) == ("maquette-tiny", "sd15", SHA256)
        assert await service.find_lora(conn, owner, stored["name"].removesuffix(".safetensors")) == lora
        assert await service.find_lora(conn, other, stored["name"]) is None
        for name in ("", "model", stored["name"] + ".safetensors", stored["name"].lower(), "%"):
            assert await service.find_lora(conn, owner, name) is None


# ------------------------------------------------------------------------------------------------------ the list


def names(rows: list[ListedModel]) -> list[str]:
    return [model.name for model in rows]


@pytest.fixture
async def tenant_id(database: Database) -> str:
    """A tenant with seven models on a server with six, beside another tenant's."""
    async with database.write() as conn:
        tenant_id, other = await make_tenant(conn), await make_tenant(conn)
        for number in range(7):
            await trained(conn, tenant_id, f"own-{number}", task_type=list(TaskType)[number % 2])
            await trained(conn, other, f"foreign-{number}")
        for name, kind, family in (
            ("zebra", "checkpoint", "sd15"),
            ("v1-5-pruned-emaonly", "checkpoint", "sd15"),
            ("stable-diffusion-xl-base-1.0", "checkpoint", "sdxl"),
            ("soft_100%", "vae", "sd15"),
            ("pelu", "embedding", "sd15"),
            ("fine", "refiner", "sdxl"),
        ):
            await add_base(conn, name, kind=kind, family=family)
    return tenant_id


PRIVATE = [f"own-{number}" for number in reversed(range(7))]
PUBLIC = ["zebra", "v1-5-pruned-emaonly", "stable-diffusion-xl-base-1.0", "soft_100%", "pelu", "fine"]


async def test_pages_of_every_limit_add_up_to_the_whole_list(database: Database, tenant_id: str) -> None:
    async with database.read() as conn:
        for wanted, whole in (
            (ModelFilter(), PRIVATE + PUBLIC),
            (ModelFilter(public=False), PRIVATE),
            (ModelFilter(private=False), PUBLIC),
            (ModelFilter(private=False, public=False), []),
        ):
            everything = await list_page(conn, tenant_id, wanted, limit=100, offset=0)
            assert names(everything) == whole
            for limit in range(1, len(whole) + 2):
                pages: list[ListedModel] = []
                while page := await list_page(conn, tenant_id, wanted, limit=limit, offset=len(pages)):
                    assert len(page) <= limit
                    pages += page
                assert pages == everything


async def test_what_was_there_keeps_its_place_when_a_base_is_replaced_or_added(
    database: Database, tenant_id: str
) -> None:
    wanted = ModelFilter(private=False)
    async with database.write() as conn:
        before = await list_page(conn, tenant_id, wanted, limit=100, offset=0)
        await add_base(conn, "zebra", sha256="e" * 64)
        await add_base(conn, "ant")
        after = await list_page(conn, tenant_id, wanted, limit=100, offset=0)
    assert names(after) == [*PUBLIC, "ant"]
    assert [model.number for model in after[:-1]] == [model.number for model in before]
    assert after[0].sha256 == "e" * 64


@pytest.mark.parametrize(
    ("wanted", "whole"),
    [
        (ModelFilter(is_sdxl=True), ["stable-diffusion-xl-base-1.0", "fine"]),
        (ModelFilter(is_sdxl=False), [*PRIVATE, "zebra", "v1-5-pruned-emaonly", "soft_100%", "pelu"]),
        (ModelFilter(private=False, kinds=["checkpoint", "refiner"]), [*PUBLIC[:3], "fine"]),
        (ModelFilter(private=False, kinds=["vae"]), ["soft_100%"]),
        (ModelFilter(private=False, kinds=[]), []),
        (ModelFilter(words="OWN-3"), ["own-3"]),
        (ModelFilter(words="XL_base"), ["stable-diffusion-xl-base-1.0"]),
        (ModelFilter(words="0%"), ["soft_100%"]),
        (ModelFilter(words="_"), [*PRIVATE, "stable-diffusion-xl-base-1.0", "soft_100%"]),
        (ModelFilter(words="style"), ["own-5", "own-3", "own-1"]),
        (ModelFilter(words="foreign"), []),
        (ModelFilter(words="'; --"), []),
    ],
)
async def test_filters(database: Database, tenant_id: str, wanted: ModelFilter, whole: list[str]) -> None:
    async with database.read() as conn:
        assert names(await list_page(conn, tenant_id, wanted, limit=100, offset=0)) == whole
