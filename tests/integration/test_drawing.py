"""Image tasks and models through a server's loops, over a scripted pool and both databases."""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from sqlalchemy import select

from maquette.core.drawing import Difference, Refusal
from maquette.core.ids import new_task_id, sha256_hex
from maquette.core.image_specs import ImageKind, ImageSpec, LoraRef
from maquette.core.lifecycle import ImageStatus, Reason, Verdict
from maquette.core.specs import BaseRef
from maquette.db.move import create_image_task
from maquette.db.tables import image_tasks
from maquette.server.images import queue
from maquette.serving.base import Comparison, DrawJob
from maquette.testing.factories import image_spec, training_spec
from maquette.testing.loops import PATIENCE, SETTINGS, Service
from maquette.testing.scripted_pool import Turn

FAR = Difference(80.0, 255)
NEAR = Difference(0.0, 0)


def spec_of(prompt: str, **changes: Any) -> ImageSpec:
    """Two pictures by the base that every service has."""
    return replace(image_spec(), **({"base": training_spec().base, "prompt": prompt} | changes))


async def ask(service: Service, spec: ImageSpec) -> str:
    """Queue an image task; answer its id."""
    task_id = new_task_id()
    async with service.database.write() as conn:
        await create_image_task(
            conn,
            tenant_id=service.tenant_id,
            image_task_id=task_id,
            kind=ImageKind.TEXT,
            spec=spec,
            original_key=None,
            webhook_url=None,
            public_url="http://maquette.test",
        )
    return task_id


async def row(service: Service, task_id: str) -> Any:
    async with service.database.read() as conn:
        return (await conn.execute(select(image_tasks).where(image_tasks.c.id == task_id))).one()


async def until(service: Service, task_id: str, done: Callable[[Any], bool]) -> Any:
    """Wait for a row that satisfies, letting back-off pass at once."""
    async with asyncio.timeout(PATIENCE):
        while not done(found := await row(service, task_id)):
            if found.status == ImageStatus.QUEUED and found.not_before > 0:
                service.database.clock.shift(2)
            await asyncio.sleep(0.01)
    return found


async def ended(service: Service, task_id: str) -> Any:
    return await until(service, task_id, lambda found: found.finished_at is not None)


async def trained(service: Service) -> Any:
    """The row of a new model."""
    task_id = await service.add_task()
    async with asyncio.timeout(PATIENCE):
        while (model := await service.model(task_id)) is None:
            await asyncio.sleep(0.01)
    return model


async def judged(service: Service, model: Any, verdict: Verdict) -> Any:
    async with asyncio.timeout(PATIENCE):
        while (found := await service.model(model.task_id)).verdict != verdict:
            service.database.clock.shift(1)
            for supervision in service.running:
                await supervision.lease.renew()
            await asyncio.sleep(0.01)
    return found


def use(model: Any) -> LoraRef:
    return LoraRef(model_id=model.id, name=model.name, object_key=model.object_key, sha256=model.sha256, strength=0.7)


async def test_every_picture_is_stored_before_its_task_succeeds(service: Service) -> None:
    await service.start()
    found = await ended(service, await ask(service, spec_of("a cat")))
    assert (found.status, found.reason, found.step) == (ImageStatus.SUCCEED, Reason.FINISHED, found.total_steps)
    pictures = [await service.storage.get(image["key"]) for image in found.images]
    assert len(pictures) == 2
    assert pictures[0] != pictures[1]
    seeds = [job.request.seed for job in service.pool.given if isinstance(job, DrawJob)]
    assert seeds == [42, 43]


async def test_a_lost_worker_costs_an_attempt_and_no_task(service: Service) -> None:
    service.pool.script("unlucky", Turn(loses_worker=True))
    await service.start()
    found = await ended(service, await ask(service, spec_of("unlucky")))
    assert found.status == ImageStatus.SUCCEED
    assert found.fence == 2
    assert all("/2/" in image["key"] for image in found.images)


async def test_what_a_worker_refuses_fails_with_its_words(service: Service) -> None:
    service.pool.script("impossible", Turn(refusal=Refusal.UNSUPPORTED, words="no such thing"))
    await service.start()
    found = await ended(service, await ask(service, spec_of("impossible")))
    assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.UNSUPPORTED)
    assert found.message.endswith("no such thing")


async def test_a_base_that_was_replaced_is_refused(service: Service) -> None:
    await service.start()
    base = replace(training_spec().base, sha256=sha256_hex(b"another"))
    found = await ended(service, await ask(service, spec_of("a cat", base=base)))
    assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.BASE_MISSING)
    assert isinstance(base, BaseRef)
    assert found.message.endswith(base.name)


async def test_a_new_server_draws_what_the_last_one_left(service: Service) -> None:
    service.pool.script("slow", Turn(step_seconds=5.0))
    first = await service.start()
    ids = [await ask(service, spec_of("slow")), *[await ask(service, spec_of(f"picture {n}")) for n in range(20)]]
    await until(service, ids[0], lambda found: found.status == ImageStatus.PROCESSING)
    await first.stop()
    service.running.remove(first)
    # What a killed server leaves says PROCESSING, under its name.
    service.pool.lose_workers()
    await service.start()
    if service.database.file is None:
        service.database.clock.shift(120)
    for task_id in ids:
        assert (await ended(service, task_id)).status == ImageStatus.SUCCEED


async def test_a_task_that_waits_too_long_fails(service: Service) -> None:
    task_id = await ask(service, spec_of("a cat"))
    service.database.clock.shift(SETTINGS.image_deadline + 1)
    await service.start()
    found = await ended(service, task_id)
    assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.TIMED_OUT)


async def test_a_model_whose_sample_is_drawn_again_is_served(service: Service) -> None:
    await service.start()
    model = await judged(service, await trained(service), Verdict.PASSED)
    assert model.status == "SERVING"
    assert model.from_sample_mean is not None
    found = await ended(service, await ask(service, spec_of("a cat", loras=(use(model),))))
    assert found.status == ImageStatus.SUCCEED
    used = [job.loras[0] for job in service.pool.given if isinstance(job, DrawJob)]
    assert {(lora.sha256, lora.strength) for lora in used} == {(model.sha256, 0.7)}


async def test_a_model_that_draws_something_else_is_rejected_and_drawing_with_it_refused(service: Service) -> None:
    sample = training_spec().sample.prompt
    service.pool.script(sample, Turn(comparison=Comparison(from_sample=FAR, from_base=FAR, versions={"torch": "2"})))
    await service.start()
    model = await judged(service, await trained(service), Verdict.REJECTED)
    assert (model.status, model.from_sample_largest) == ("DEPLOYING", 255)
    assert "80.00" in model.verdict_message
    (told,) = await service.told(model.task_id, "model_rejected")
    assert told["message"] == model.verdict_message
    found = await ended(service, await ask(service, spec_of("a cat", loras=(use(model),))))
    assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.MODEL_REJECTED)


async def test_a_model_that_changes_nothing_is_rejected(service: Service) -> None:
    sample = training_spec().sample.prompt
    service.pool.script(sample, Turn(comparison=Comparison(from_sample=NEAR, from_base=NEAR, versions={})))
    await service.start()
    model = await judged(service, await trained(service), Verdict.REJECTED)
    assert "changes nothing" in model.verdict_message


async def test_a_lost_worker_rejects_no_model(service: Service) -> None:
    service.pool.script(training_spec().sample.prompt, Turn(loses_worker=True), Turn(refusal=Refusal.OUT_OF_MEMORY))
    await service.start()
    model = await judged(service, await trained(service), Verdict.PASSED)
    assert (model.status, model.attempts) == ("SERVING", 0)


async def test_a_task_waits_for_its_model_and_not_for_ever(service: Service) -> None:
    turns = [Turn(loses_worker=True)] * 200
    service.pool.script(training_spec().sample.prompt, *turns)
    await service.start()
    model = await trained(service)
    task_id = await ask(service, spec_of("a cat", loras=(use(model),)))
    await asyncio.sleep(0.1)
    assert (await row(service, task_id)).status == ImageStatus.QUEUED
    service.database.clock.shift(SETTINGS.model_wait + 1)
    found = await ended(service, task_id)
    assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.MODEL_NOT_READY)


async def test_pictures_go_when_their_time_is_over(service: Service) -> None:
    running = replace(SETTINGS, reap_interval=0.01)
    await service.start(settings=running)
    task_id = await ask(service, spec_of("a cat"))
    await ended(service, task_id)
    service.database.clock.shift(SETTINGS.keep_images + SETTINGS.image_url_ttl + 1)
    for supervision in service.running:
        await supervision.lease.renew()
    async with asyncio.timeout(PATIENCE):
        while await service.count(image_tasks):
            await asyncio.sleep(0.01)
    assert [info async for info in service.storage.list(queue.IMAGES)] == []
