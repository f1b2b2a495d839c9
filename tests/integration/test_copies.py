"""Drawn pictures reach the callers' buckets before their tasks succeed. The buckets are those of a real S3 server."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from maquette.core.image_specs import CopyTarget
from maquette.core.lifecycle import ImageStatus, Reason
from maquette.core.picture_format import PictureFormat
from maquette.db.tables import image_tasks
from maquette.server.images import queue
from maquette.testing.factories import image_spec, make_image_task, training_spec
from maquette.testing.loops import PATIENCE, Service
from maquette.testing.s3 import S3Server, s3_server
from maquette.testing.scripted_pool import Turn

BUCKET = "their-pictures"
TARGET = CopyTarget(region="us-east-1", bucket=BUCKET, folder="drawn/by-us", directly=False)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.empty(BUCKET)
    return server


async def ask(service: Service, target: CopyTarget, prompt: str = "a cat") -> str:
    """Queue a task of two WebP pictures; answer its id."""
    base = training_spec().base
    spec = replace(image_spec(), base=base, prompt=prompt, format=PictureFormat.WEBP, copy_to=target)
    async with service.database.write() as conn:
        return await make_image_task(conn, service.tenant_id, spec=spec)


async def ended(service: Service, task_id: str) -> Any:
    """The task's row once it has ended, letting pauses pass at once."""
    query = select(image_tasks).where(image_tasks.c.id == task_id)
    async with asyncio.timeout(PATIENCE):
        while True:
            async with service.database.read() as conn:
                row = (await conn.execute(query)).one()
            if row.finished_at is not None:
                return row
            if row.status == ImageStatus.QUEUED and row.not_before > 0:
                service.database.clock.shift(2)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("target", "between"),
    [
        (TARGET, "drawn/by-us/{}/"),
        (replace(TARGET, directly=True), "drawn/by-us/{}-"),
        (replace(TARGET, folder=""), "{}/"),
        (replace(TARGET, folder="", directly=True), "{}-"),
    ],
)
async def test_every_picture_is_copied_as_it_is_stored_here(
    service: Service, s3: S3Server, target: CopyTarget, between: str
) -> None:
    await service.start()
    task_id = await ask(service, target)
    row = await ended(service, task_id)
    assert (row.status, row.fence) == (ImageStatus.SUCCEED, 1)
    for index, image in enumerate(row.images):
        copy = s3.get(BUCKET, f"{between.format(task_id)}{index}.webp")
        assert (copy.status_code, copy.headers["content-type"]) == (200, "image/webp")
        assert copy.content == await service.storage.get(image["key"])


async def test_a_repeated_attempt_copies_again(service: Service, s3: S3Server) -> None:
    service.pool.script("unlucky", Turn(), Turn(loses_worker=True))
    await service.start()
    task_id = await ask(service, TARGET, "unlucky")
    row = await ended(service, task_id)
    assert (row.status, row.fence) == (ImageStatus.SUCCEED, 2)
    for index, image in enumerate(row.images):
        copy = s3.get(BUCKET, f"drawn/by-us/{task_id}/{index}.webp")
        assert copy.content == await service.storage.get(image["key"])


async def test_credentials_that_open_no_bucket_are_told_as_that(
    service: Service, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    await service.start()
    row = await ended(service, await ask(service, TARGET))
    assert (row.status, row.reason, row.fence) == (ImageStatus.FAILED, Reason.NOT_COPIED, 2)
    assert row.message.endswith(f"{BUCKET}: Generic S3 error: Missing SecretAccessKey")


async def test_a_bucket_that_takes_nothing_is_tried_twice_and_told(service: Service, s3: S3Server) -> None:
    await service.start()
    row = await ended(service, await ask(service, replace(TARGET, bucket="gone")))
    assert (row.status, row.reason, row.fence) == (ImageStatus.FAILED, Reason.NOT_COPIED, 2)
    assert row.message.startswith(
        "The pictures were drawn, but could not be copied to the bucket that the request names. gone: "
    )
    assert row.images is None
    stored = [info.key async for info in service.storage.list(queue.prefix(row.tenant_id, row.id))]
    assert len(stored) == 2
