"""Image tasks and models through a server's loops, over a scripted pool and both databases."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.drawing import Difference, Refusal
from maquette.core.ids import new_task_id, sha256_hex
from maquette.core.image_specs import ImageSpec, LoraRef
from maquette.core.lifecycle import ImageStatus, Reason, Verdict
from maquette.core.specs import BaseRef
from maquette.db.tables import image_tasks
from maquette.server.images import queue
from maquette.server.images import service as images
from maquette.server.images.queue import ClaimedImageTask, ImageProgress
from maquette.server.images.service import Addresses
from maquette.server.loops import image_sweep, reap
from maquette.server.loops.image_sweep import STRAY_SECONDS, StraySweep
from maquette.server.signing import Signer
from maquette.serving.base import DEVICE, CompareJob, DrawJob, OnStep, WorkerLost
from maquette.testing.factories import image_spec, make_image_task, training_spec
from maquette.testing.loops import PATIENCE, PICTURE, SETTINGS, Service
from maquette.testing.scripted_pool import PASSING, ScriptedPool, Turn

FAR = Difference(80.0, 255)
NEAR = Difference(0.0, 0)


def spec_of(prompt: str, **changes: Any) -> ImageSpec:
    """Two pictures by the base that every service has."""
    return replace(image_spec(), **({"base": training_spec().base, "prompt": prompt} | changes))


async def ask(service: Service, spec: ImageSpec, original_key: str | None = None) -> str:
    """Queue an image task; answer its id."""
    async with service.database.write() as conn:
        return await make_image_task(conn, service.tenant_id, spec=spec, original_key=original_key)


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


async def claim(service: Service, count: int) -> list[ClaimedImageTask]:
    """Claim waiting tasks, as a server did that is dead by now."""
    async with service.database.write() as conn:
        due = await queue.due(conn, count, model_wait=0.0)
        claimed = [await queue.claim(conn, task, supervisor="killed", lease=30.0) for task in due]
    return [task for task in claimed if task]


async def test_a_new_server_draws_what_a_killed_one_left(service: Service) -> None:
    """What no worker had begun has lost no attempt."""
    ids = [await ask(service, spec_of(f"picture {n}")) for n in range(20)]
    left = await claim(service, 15)
    async with service.database.write() as conn:
        await queue.advance(conn, [ImageProgress(task, 3, 0.1) for task in left[:5]], 30.0)
    await service.start()
    if service.database.file is None:
        service.database.clock.shift(120)
    found = [await ended(service, task_id) for task_id in ids]
    assert {task.status for task in found} == {ImageStatus.SUCCEED}
    assert [task.failures for task in found] == [{"worker_lost": 1}] * 5 + [{}] * 15


async def test_a_server_that_is_stopped_costs_no_attempt(service: Service) -> None:
    service.pool.script("slow", *[Turn(step_seconds=60.0)] * 6)
    ids = [await ask(service, spec_of("slow")) for _ in range(3)]
    for fence in range(1, 7):
        await service.start()
        await until(service, ids[0], lambda found: found.started_at is not None)
        await service.stop()
        for task_id in ids:
            found = await row(service, task_id)
            assert (found.status, found.reason, found.failures) == (ImageStatus.QUEUED, Reason.RELEASED, {})
            assert (found.fence, found.started_at, found.not_before < 1) == (fence, None, False)
        service.pool.lose_workers()
    await service.start()
    for task_id in ids:
        found = await ended(service, task_id)
        assert (found.status, found.fence, found.failures) == (ImageStatus.SUCCEED, 7, {})


async def shown(service: Service, task_id: str) -> tuple[str, bool]:
    """The status that its owner reads, and whether the answer says when it was begun and ended."""
    addresses = Addresses(Signer("secret" * 8), "http://maquette.test", 3600)
    async with service.database.read() as conn:
        found = await images.result(conn, service.tenant_id, task_id, addresses, kept=3600.0)
    return found.task.status, found.extra.debug_info is not UNSET


async def test_what_the_pool_holds_in_its_own_queue_is_shown_as_waiting(service: Service) -> None:
    service.pool.script("slow", Turn(step_seconds=60.0))
    await service.start()
    first = await ask(service, spec_of("slow"))
    await until(service, first, lambda found: found.started_at is not None)
    second = await ask(service, spec_of("a cat"))
    await until(service, second, lambda found: found.status == ImageStatus.PROCESSING)
    await asyncio.sleep(0.1)
    assert await shown(service, first) == (ImageStatus.PROCESSING, False)
    assert await shown(service, second) == (ImageStatus.QUEUED, False)
    assert (await row(service, second)).started_at is None
    service.pool.lose_workers()
    found = await ended(service, second)
    assert await shown(service, second) == (ImageStatus.SUCCEED, True)
    assert found.created_at < found.started_at < found.finished_at


async def test_what_is_drawn_between_two_turns_says_when_it_was_begun(service: Service) -> None:
    task_id = await ask(service, spec_of("a cat"))
    await service.start(settings=replace(SETTINGS, loop_interval=30.0))
    found = await ended(service, task_id)
    assert found.created_at < found.started_at < found.finished_at


async def draw_and_cut_off(service: Service, monkeypatch: pytest.MonkeyPatch, task_id: str) -> asyncio.Event:
    """Start; the database is away for writers from when a task's second picture is stored until the event is set."""
    write, put = service.database.write, service.storage.put
    back, gone = asyncio.Event(), asyncio.Event()
    back.set()

    @asynccontextmanager
    async def write_if_there() -> AsyncGenerator[AsyncConnection]:
        if not back.is_set():
            raise OSError("the database is away")
        async with write() as conn:
            yield conn

    async def put_and_cut(key: str, data: bytes) -> None:
        await put(key, data)
        if task_id in key and key.endswith("/1.png"):
            back.clear()
            gone.set()

    monkeypatch.setattr(service.database, "write", write_if_there)
    monkeypatch.setattr(service.storage, "put", put_and_cut)
    await service.start()
    async with asyncio.timeout(PATIENCE):
        await gone.wait()
    return back


async def test_what_was_drawn_while_the_database_was_away_is_not_drawn_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was away for longer than a lease."""
    task_id = await ask(service, spec_of("a cat"))
    back = await draw_and_cut_off(service, monkeypatch, task_id)
    await asyncio.sleep(0.3)
    service.database.clock.shift(200)
    assert (await row(service, task_id)).status == ImageStatus.PROCESSING
    back.set()
    found = await ended(service, task_id)
    assert (found.status, found.fence, found.failures) == (ImageStatus.SUCCEED, 1, {})
    assert len(service.pool.given) == 2


async def test_a_server_stops_though_the_database_is_away(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = await ask(service, spec_of("a cat"))
    back = await draw_and_cut_off(service, monkeypatch, task_id)
    async with asyncio.timeout(5):
        await service.stop()
    back.set()
    monkeypatch.undo()
    await service.start()
    if service.database.file is None:
        service.database.clock.shift(120)
    assert (await ended(service, task_id)).status == ImageStatus.SUCCEED


class Defective(ScriptedPool):
    """Raises what no pool promises."""

    async def draw(self, job: DrawJob, on_step: OnStep) -> bytes:
        self.given.append(job)
        raise RuntimeError("a mistake of ours")


async def test_an_error_that_nobody_expects_ends_attempts_by_its_own_reason(service: Service) -> None:
    service.pool = Defective(service.storage)
    await service.start()
    found = await ended(service, await ask(service, spec_of("a cat")))
    assert (found.status, found.reason, found.failures) == (ImageStatus.FAILED, Reason.INTERNAL, {"internal": 3})
    assert found.message == "Drawing met an internal error."


class Hesitant(ScriptedPool):
    """Gives jobs up before any worker has begun them."""

    given_up = 0

    async def draw(self, job: DrawJob, on_step: OnStep) -> bytes:
        if self.given_up < 7:
            self.given_up += 1
            raise WorkerLost("nobody began it")
        return await super().draw(job, on_step)


async def test_what_the_pool_gives_up_unbegun_costs_no_attempt(service: Service) -> None:
    service.pool = Hesitant(service.storage)
    await service.start()
    found = await ended(service, await ask(service, spec_of("a cat")))
    assert (found.status, found.fence, found.failures) == (ImageStatus.SUCCEED, 8, {})


async def test_a_task_that_another_server_gave_back_is_drawn_by_this_one_again(service: Service) -> None:
    """Its old attempt is let go of, and hinders the new one in nothing."""
    service.pool.script("slow", Turn(step_seconds=60.0))
    await service.start()
    task_id = await ask(service, spec_of("slow"))
    found = await until(service, task_id, lambda found: found.started_at is not None)
    lost = ClaimedImageTask(id=task_id, tenant_id=service.tenant_id, fence=1, failures={})
    async with service.database.write() as conn:
        await queue.give_back(conn, lost, true())
    service.pool.lose_workers()
    found = await ended(service, task_id)
    assert (found.status, found.fence, found.failures) == (ImageStatus.SUCCEED, 2, {"worker_lost": 1})


async def test_an_old_attempt_that_hangs_hinders_the_next_in_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, hangs, opened = service.storage.put, asyncio.Event(), asyncio.Event()

    async def hanging_put(key: str, data: bytes) -> None:
        if key.endswith("/1/0.png"):
            hangs.set()
            await opened.wait()
        await put(key, data)

    monkeypatch.setattr(service.storage, "put", hanging_put)
    await service.start()
    task_id = await ask(service, spec_of("a cat"))
    async with asyncio.timeout(PATIENCE):
        await hangs.wait()
    lost = ClaimedImageTask(id=task_id, tenant_id=service.tenant_id, fence=1, failures={})
    async with service.database.write() as conn:
        assert await queue.release(conn, lost)
    found = await ended(service, task_id)
    opened.set()
    await service.stop()
    assert await row(service, task_id) == found
    assert (found.status, found.fence) == (ImageStatus.SUCCEED, 2)


async def test_a_picture_to_start_from_that_is_gone_is_told_as_that(service: Service) -> None:
    await service.start()
    gone = queue.original_key(service.tenant_id, "x", "png")
    found = await ended(service, await ask(service, spec_of("a cat", original_strength=0.5), gone))
    assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.ORIGINAL_MISSING)
    assert found.message == "The picture to start from is gone."


async def test_a_task_that_waits_too_long_fails(service: Service) -> None:
    task_id = await ask(service, spec_of("a cat"))
    service.database.clock.shift(SETTINGS.image_deadline + 1)
    await service.start()
    found = await ended(service, task_id)
    assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.TIMED_OUT)


async def test_a_task_that_is_drawn_for_too_long_fails_and_the_pool_lets_it_go(service: Service) -> None:
    service.pool.script("slow", Turn(step_seconds=60.0))
    await service.start()
    ids = [await ask(service, spec_of("slow")) for _ in range(2)]
    await until(service, ids[0], lambda found: found.started_at is not None)
    await until(service, ids[1], lambda found: found.status == ImageStatus.PROCESSING)
    service.database.clock.shift(SETTINGS.image_deadline + 1)
    for task_id in ids:
        found = await ended(service, task_id)
        assert (found.status, found.reason) == (ImageStatus.FAILED, Reason.TIMED_OUT)
        assert "86400 s" in found.message
    async with asyncio.timeout(PATIENCE):
        while service.pool.state().waiting:
            await asyncio.sleep(0.01)
    service.pool.lose_workers()
    assert (await ended(service, await ask(service, spec_of("a cat")))).status == ImageStatus.SUCCEED


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
    service.pool.script(sample, Turn(comparison=replace(PASSING, from_sample=FAR, from_base=FAR)))
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
    service.pool.script(sample, Turn(comparison=replace(PASSING, from_base=NEAR)))
    await service.start()
    model = await judged(service, await trained(service), Verdict.REJECTED)
    assert "changes nothing" in model.verdict_message


async def test_a_rejected_model_is_judged_again_after_a_restart_with_another_worker_and_not_with_the_same(
    service: Service,
) -> None:
    """Though there is nothing to draw that would start a worker."""
    sample = training_spec().sample.prompt
    service.pool.script(sample, Turn(comparison=replace(PASSING, from_sample=FAR, from_base=FAR)))
    await service.start()
    model = await judged(service, await trained(service), Verdict.REJECTED)
    await service.stop()
    await service.start()
    await asyncio.sleep(0.3)
    await service.stop()
    assert (await service.model(model.task_id)) == model
    again = replace(PASSING, versions={DEVICE: "cuda of some make", "scripted": "1"})
    service.pool.told_versions = [again.versions]
    service.pool.script(sample, Turn(comparison=again))
    await service.start()
    model = await judged(service, model, Verdict.PASSED)
    assert model.judged_with.startswith("device cuda of some make, scripted 1, bounds 0.5, 16 and ")


async def test_what_a_worker_refuses_of_a_model_is_judged_once_by_that_kind_of_worker(service: Service) -> None:
    refused = Turn(refusal=Refusal.NOT_FINITE, words="it is not finite")
    service.pool.script(training_spec().sample.prompt, *[refused] * 9)
    await service.start()
    model = await judged(service, await trained(service), Verdict.REJECTED)
    await asyncio.sleep(0.3)
    assert len(await service.told(model.task_id, "model_rejected")) == 1
    assert model.judged_with.startswith("device none, scripted 1, bounds")


async def test_a_model_whose_files_the_storage_does_not_have_waits_until_it_has(service: Service) -> None:
    """As when it is not mounted: such a storage reads as if it were empty."""
    service.pool.script(training_spec().sample.prompt, *[Turn(loses_worker=True)] * 2)
    await service.start()
    model = await trained(service)
    sample = await service.storage.get(model.sample_key)
    await service.storage.delete(model.sample_key)
    async with asyncio.timeout(PATIENCE):
        while (waiting := await service.model(model.task_id)).attempts < 4:
            service.database.clock.shift(60)
            for supervision in service.running:
                await supervision.lease.renew()
            await asyncio.sleep(0.01)
    assert (waiting.status, waiting.verdict) == ("DEPLOYING", Verdict.PENDING)
    assert waiting.verdict_message.startswith("the storage does not have its files")
    await service.storage.put(model.sample_key, sample)
    assert (await judged(service, model, Verdict.PASSED)).status == "SERVING"


async def test_a_lost_worker_rejects_no_model(service: Service) -> None:
    service.pool.script(training_spec().sample.prompt, Turn(loses_worker=True), Turn(refusal=Refusal.OUT_OF_MEMORY))
    await service.start()
    model = await judged(service, await trained(service), Verdict.PASSED)
    assert (model.status, model.attempts) == ("SERVING", 0)


async def test_a_model_that_costs_worker_after_worker_is_rejected_and_says_meanwhile_why_it_waits(
    service: Service,
) -> None:
    service.pool.script(training_spec().sample.prompt, *[Turn(loses_worker=True, words="it burns")] * 9)
    await service.start()
    model = await trained(service)
    async with asyncio.timeout(PATIENCE):
        while not (waiting := await service.model(model.task_id)).attempts:
            await asyncio.sleep(0.01)
    assert (waiting.status, waiting.verdict) == ("DEPLOYING", Verdict.PENDING)
    assert waiting.verdict_message == "the worker that drew with it was lost: it burns"
    model = await judged(service, model, Verdict.REJECTED)
    assert model.verdict_message.startswith("5 workers in a row were lost while they drew with it, the latest")
    assert len([job for job in service.pool.given if isinstance(job, CompareJob)]) == 5


async def test_workers_lost_now_and_then_reject_no_model(service: Service) -> None:
    lost, refused = Turn(loses_worker=True), Turn(refusal=Refusal.OUT_OF_MEMORY)
    service.pool.script(training_spec().sample.prompt, *[lost] * 4, refused, *[lost] * 4)
    await service.start()
    model = await judged(service, await trained(service), Verdict.PASSED)
    assert (model.status, model.verdict_message) == ("SERVING", "")


async def test_a_comparison_that_never_ends_is_begun_anew(service: Service) -> None:
    service.pool.script(training_spec().sample.prompt, Turn(step_seconds=60.0))
    await service.start(settings=replace(SETTINGS, comparison_timeout=0.2))
    model = await trained(service)
    async with asyncio.timeout(PATIENCE):
        while not (waiting := await service.model(model.task_id)).attempts:
            await asyncio.sleep(0.01)
    assert (waiting.verdict_message, waiting.lost_workers) == ("it was not compared within 0.2 s", 0)
    service.pool.lose_workers()
    assert (await judged(service, model, Verdict.PASSED)).status == "SERVING"


async def test_what_can_be_drawn_does_not_wait_behind_what_waits_for_its_model(service: Service) -> None:
    """Though the turns are so far apart that what waits could be looked at again in each."""
    service.pool.script(training_spec().sample.prompt, *[Turn(loses_worker=True)] * 200)
    await service.start()
    model = await trained(service)
    await service.stop()
    waiting = [await ask(service, spec_of("a cat", loras=(use(model),))) for _ in range(60)]
    ready = await ask(service, spec_of("a dog"))
    await service.start(settings=replace(SETTINGS, loop_interval=1.5))
    async with asyncio.timeout(5):
        while (await row(service, ready)).finished_at is None:
            await asyncio.sleep(0.01)
    assert {(await row(service, task_id)).status for task_id in waiting} == {ImageStatus.QUEUED}


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
    assert found.message.endswith("is still being deployed: the worker that drew with it was lost: as scripted.")


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


async def test_what_was_stored_for_a_task_that_was_never_created_goes(service: Service) -> None:
    drawn, unborn = await ask(service, spec_of("a cat")), new_task_id()
    kept = {
        queue.original_key(service.tenant_id, drawn, "png"),
        f"images/{service.tenant_id}/{drawn}/1/0.png",
        queue.original_key("of-another-installation", unborn, "png"),
        "images/README",
    }
    stray = queue.original_key(service.tenant_id, unborn, "png")
    sweep = StraySweep(service.database, service.storage)

    async def left() -> set[str]:
        await sweep.run()
        return {info.key async for info in service.storage.list(queue.IMAGES)}

    for key in (*kept, stray):
        await service.storage.put(key, PICTURE)
    assert await left() == {*kept, stray}, "its request may still be under way"
    service.database.clock.shift(STRAY_SECONDS - 60)
    assert await left() == {*kept, stray}
    service.database.clock.shift(120)
    assert await left() == kept


async def test_a_sweep_of_a_server_that_has_just_started_erases_what_is_old(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one that is started again every hour would never erase anything."""
    old, young = (queue.original_key(service.tenant_id, new_task_id(), "png") for _ in range(2))
    await service.storage.put(old, PICTURE)
    await asyncio.sleep(0.5)
    monkeypatch.setattr(image_sweep, "STRAY_SECONDS", 0.4)
    await service.storage.put(young, PICTURE)
    await StraySweep(service.database, service.storage).run()
    assert [info.key async for info in service.storage.list(queue.IMAGES)] == [young]


async def test_the_server_sweeps_what_was_stored_for_no_task(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reap, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(image_sweep, "STRAY_SECONDS", 0.1)
    await service.storage.put(queue.original_key(service.tenant_id, new_task_id(), "png"), PICTURE)
    await service.start(settings=replace(SETTINGS, reap_interval=0.02))
    async with asyncio.timeout(PATIENCE):
        while [info async for info in service.storage.list(queue.IMAGES)]:
            await asyncio.sleep(0.01)
