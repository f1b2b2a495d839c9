"""What uploads leave behind is erased, and never what a row names or may come to name."""

import asyncio
import sys
from types import FrameType
from typing import Any

import pytest
from msgspec import Struct
from sqlalchemy import select, update

from maquette.core.errors import MaquetteError
from maquette.core.ids import new_asset_id, new_id
from maquette.core.specs import DatasetItem, TaskType, TrainingRequest
from maquette.db.engine import Database
from maquette.db.tables import assets, dataset_items, tasks
from maquette.server.assets import repository, service
from maquette.server.loops import sweep
from maquette.server.loops.sweep import UploadSweep
from maquette.server.settings import Settings
from maquette.server.training import creation
from maquette.server.training.creation import Draft
from maquette.storage.base import Storage
from maquette.testing.api import Api, picture, reason

HOUR = 3600
DAY = 24 * HOUR


@pytest.fixture
def uploads(settings: Settings, database: Database, storage: Storage) -> UploadSweep:
    return UploadSweep(database, storage, settings.keep_unused_uploads)


class Stored(Struct):
    """Rows of assets, and keys of objects: those there are, and those that a row names."""

    assets: set[str]
    objects: set[str]
    named: set[str]


async def stored(database: Database, storage: Storage) -> Stored:
    async with database.read() as conn:
        rows = (await conn.execute(select(assets.c.id, assets.c.upload_key, assets.c.sealed_key))).all()
        items = await conn.scalars(select(dataset_items.c.object_key))
        named = {key for row in rows for key in (row.upload_key, row.sealed_key) if key} | set(items)
    return Stored({row.id for row in rows}, {info.key async for info in storage.list("")}, named)


async def tenant_of(database: Database, asset_id: str) -> str:
    async with database.read() as conn:
        return (await conn.scalars(select(assets.c.tenant_id).where(assets.c.id == asset_id))).one()


async def drafted(database: Database, settings: Settings, tenant_id: str, asset_id: str) -> Draft:
    request = TrainingRequest(
        name="cat", base_model="tiny", width=128, height=128, image_dataset_items=[DatasetItem(asset_id)]
    )
    async with database.read() as conn:
        return await creation.draft(conn, settings, tenant_id, TaskType.SUBJECT, request)


async def test_an_asset_that_no_task_took_goes_a_day_after_its_address_expired(
    api: Api, stranger: Api, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    taken, foreign = await api.upload(), await stranger.upload()
    for tenant, asset_id in ((api, taken), (stranger, foreign)):
        await tenant.task(image_dataset_items=[{"assets_id": asset_id}])
    untaken, empty = await api.upload(), (await api.asset())["assets_id"]
    database.clock.shift(600 + DAY - 60)
    fresh = await stranger.upload()
    before = await stored(database, storage)
    await uploads.run()
    assert await stored(database, storage) == before

    database.clock.shift(120)
    await uploads.run()
    after = await stored(database, storage)
    assert before.assets - after.assets == {untaken, empty}
    assert after.objects == after.named
    assert {key.split("/")[2] for key in before.objects - after.objects} == {untaken}
    response = await api.train(image_dataset_items=[{"assets_id": untaken}])
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    for tenant, asset_id in ((api, taken), (stranger, foreign), (stranger, fresh)):
        await tenant.task(image_dataset_items=[{"assets_id": asset_id}])


async def test_a_taken_asset_that_was_uploaded_anew_stays(
    api: Api, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    asset = await api.asset()
    await api.http.put(asset["upload_url"], content=picture())
    await api.task(image_dataset_items=[{"assets_id": asset["assets_id"]}])
    await api.http.put(asset["upload_url"], content=picture(colour="blue"))
    before = await stored(database, storage)
    database.clock.shift(2 * DAY)
    await uploads.run()
    assert await stored(database, storage) == before
    assert before.objects == before.named


async def test_objects_that_no_row_names_go_once_none_can_come_to_name_them(
    api: Api, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    asset_id = await api.upload()
    await api.task(image_dataset_items=[{"assets_id": asset_id}])
    tenant_id = await tenant_of(database, asset_id)
    named = (await stored(database, storage)).objects
    leftovers = {
        f"uploads/{tenant_id}/{asset_id}/{new_id()}": "the server died before the row",
        f"sealed/{tenant_id}/{asset_id}/{'0' * 64}": "a copy of earlier bytes",
    }
    nobodys = {f"{kind}/{tenant_id}/{new_asset_id()}/x": "the asset's row is gone" for kind in ("uploads", "sealed")}
    for key in (*leftovers, *nobodys):
        await storage.put(key, picture())
    await uploads.run()
    assert (await stored(database, storage)).objects == {*named, *leftovers}
    database.clock.shift(600 + DAY + 60)
    await uploads.run()
    assert (await stored(database, storage)).objects == named


async def test_a_sealed_copy_that_the_next_task_takes_stays(
    api: Api, settings: Settings, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    asset = await api.asset()
    await api.http.put(asset["upload_url"], content=picture())
    asset_id = asset["assets_id"]
    await api.task(image_dataset_items=[{"assets_id": asset_id}])
    await api.http.put(asset["upload_url"], content=picture(colour="blue"))
    tenant_id = await tenant_of(database, asset_id)
    database.clock.shift(2 * DAY)
    draft = await drafted(database, settings, tenant_id, asset_id)
    sealed = await service.seal(storage, tenant_id, draft.pictures)
    await uploads.run()
    async with database.write() as conn:
        await creation.create(conn, tenant_id, draft, sealed)
    after = await stored(database, storage)
    assert after.named <= after.objects


async def test_what_is_not_ours_is_left_alone(
    api: Api, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    tenant_id = await tenant_of(database, await api.upload())
    foreign = {
        f"uploads/{new_id()}/{new_asset_id()}/{new_id()}",
        f"sealed/{new_id()}/{new_asset_id()}/{'0' * 64}",
        f"uploads/{tenant_id}/README",
        f"tasks/{tenant_id}/1/x",
        f"uploads-of-old/{tenant_id}/1/x",
    }
    for key in foreign:
        await storage.put(key, b"not ours")
    database.clock.shift(2 * DAY)
    await uploads.run()
    assert (await stored(database, storage)).objects == foreign


async def test_an_asset_swept_between_seal_and_task_is_a_conflict_and_leaves_nothing(
    api: Api, settings: Settings, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    asset_id = await api.upload()
    tenant_id = await tenant_of(database, asset_id)
    draft = await drafted(database, settings, tenant_id, asset_id)
    database.clock.shift(2 * DAY)
    sealed = await service.seal(storage, tenant_id, draft.pictures)
    await uploads.run()
    with pytest.raises(MaquetteError, match="send the request again") as refused:
        async with database.write() as conn:
            await creation.create(conn, tenant_id, draft, sealed)
    assert refused.value.status == 409
    async with database.read() as conn:
        assert (await conn.execute(select(tasks))).all() == []
    assert await stored(database, storage) == Stored(set(), set(), set())


async def test_an_asset_that_a_task_is_taking_is_not_swept(
    api: Api, settings: Settings, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    asset_id = await api.upload()
    tenant_id = await tenant_of(database, asset_id)
    draft = await drafted(database, settings, tenant_id, asset_id)
    database.clock.shift(2 * DAY)
    sealed = await service.seal(storage, tenant_id, draft.pictures)
    async with database.write() as conn:
        await creation.create(conn, tenant_id, draft, sealed)
        sweeping = asyncio.create_task(uploads.run())
        await asyncio.sleep(0.3)
        assert not sweeping.done()
    await sweeping
    after = await stored(database, storage)
    assert after.assets == {asset_id}
    assert after.objects == after.named


class Died(BaseException):
    """As if the process had ended here."""


class DyingAt:
    """Ends whatever runs when the `line`-th line of the sweep's own code is reached."""

    def __init__(self, line: int) -> None:
        self.left = line
        self._ours = {module.__file__ for module in (sweep, service, repository)}

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename not in self._ours:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise Died
        return self._trace


@pytest.mark.slow
async def test_a_sweep_that_is_cut_off_at_any_line_loses_nothing_and_is_made_good_by_the_next(
    api: Api, database: Database, storage: Storage, uploads: UploadSweep
) -> None:
    taken = await api.upload()
    await api.task(image_dataset_items=[{"assets_id": taken}])
    tenant_id = await tenant_of(database, taken)
    lasting = await stored(database, storage)
    for line in range(1, 1000):
        for _ in range(2):
            await api.upload()
        async with database.write() as conn:
            await conn.execute(update(assets).values(upload_expires_at=1.0))
        await storage.put(f"uploads/{tenant_id}/{taken}/{new_id()}", b"the server died before the row")
        dying = DyingAt(line)
        try:
            with dying:
                await uploads.run()
        except Died:
            after = await stored(database, storage)
            assert after.named <= after.objects, f"died at line {line}"
        await uploads.run()
        assert await stored(database, storage) == lasting, f"died at line {line}"
        if dying.left > 0:
            return
    pytest.fail("it never came to its end")
