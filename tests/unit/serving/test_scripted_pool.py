"""What the scripted pool alone can: be told how jobs go. What it shares with real pools is in the contract suite."""

import asyncio

import pytest
from msgspec.structs import replace

from maquette.core.drawing import BaseUse, Difference, DrawRequest, Refusal
from maquette.core.ids import sha256_hex
from maquette.serving.base import CompareJob, DrawJob, JobRefused, StoredLora, WorkerLost
from maquette.storage.base import Storage
from maquette.storage.registry import open_storage
from maquette.testing.scripted_pool import PASSING, ScriptedPool, Turn

REQUEST = DrawRequest(prompt="a fox", width=8, height=8, steps=4, guidance_scale=7.0, seed=1)
BASE = BaseUse("/bases/red", 64 * "a")
JOB = DrawJob(base=BASE, request=REQUEST)


def unheard(step: int, steps: int) -> None:
    """Nobody listens."""


@pytest.fixture
def storage() -> Storage:
    return open_storage("memory://")


async def test_turns_are_taken_first_to_last_and_by_their_prompt_alone(storage: Storage) -> None:
    pool = ScriptedPool(storage)
    pool.script("a fox", Turn(loses_worker=True), Turn(refusal=Refusal.NOT_FINITE, words="black"))
    assert await pool.draw(replace(JOB, request=replace(REQUEST, prompt="a cat")), unheard)
    with pytest.raises(WorkerLost):
        await pool.draw(JOB, unheard)
    with pytest.raises(JobRefused, match="black") as caught:
        await pool.draw(JOB, unheard)
    assert caught.value.reason is Refusal.NOT_FINITE
    assert await pool.draw(JOB, unheard)
    assert pool.given.count(JOB) == 3


async def test_lost_workers_lose_what_they_draw_and_nothing_else(storage: Storage) -> None:
    pool = ScriptedPool(storage, workers=2)
    pool.script("a fox", *(Turn(step_seconds=10.0),) * 2)
    lost = [asyncio.create_task(pool.draw(JOB, unheard)) for _ in range(2)]
    waiting = asyncio.create_task(pool.draw(JOB, unheard))
    while pool.state().drawing < 2:
        await asyncio.sleep(0.001)
    pool.lose_workers()
    answers = await asyncio.gather(*lost, return_exceptions=True)
    assert [type(answer) for answer in answers] == [WorkerLost, WorkerLost]
    assert await waiting


async def test_comparison_measures_what_it_is_told(storage: Storage) -> None:
    await storage.put("models/one", b"lora")
    await storage.put("samples/one", b"picture")
    lora = StoredLora(key="models/one", sha256=sha256_hex(b"lora"))
    job = CompareJob(base=BASE, request=REQUEST, lora=lora, sample_key="samples/one")
    pool = ScriptedPool(storage)
    failing = replace(PASSING, from_base=Difference(mean=0.0, largest=0))
    pool.script("a fox", Turn(comparison=failing))
    assert await pool.compare(job) == failing
    assert await pool.compare(job) == PASSING
