"""The scripted executor's ways to go wrong, one each; what it shares with real executors is in the contract suite."""

import asyncio
import time

import pytest
from msgspec.structs import replace

from maquette.core.ids import new_task_id
from maquette.core.lifecycle import Reason
from maquette.core.progress import Failed, Finished, Started, Step
from maquette.executors.base import AttemptPlan, Liveness, Observation, UnknownAttempt
from maquette.storage.base import Storage
from maquette.storage.registry import open_storage
from maquette.testing.factories import training_spec
from maquette.testing.scripted_executor import Script, ScriptedExecutor, ScriptedNode

STEPS = 5


@pytest.fixture
def storage() -> Storage:
    return open_storage("memory://")


@pytest.fixture
def executor(storage: Storage) -> ScriptedExecutor:
    return ScriptedExecutor(ScriptedNode(step_seconds=0.001), storage)


def plan(fence: int = 1, task_id: str | None = None) -> AttemptPlan:
    task_id = task_id or new_task_id()
    return AttemptPlan(
        task_id=task_id,
        fence=fence,
        training=training_spec(pictures=0, steps=STEPS),
        base_path="",
        pictures=(),
        resume_from=(),
        device="cpu",
        checkpoint_every=2,
        output_prefix=f"tasks/{task_id}/{fence}",
    )


async def ended(executor: ScriptedExecutor, handle: str) -> Observation:
    deadline = time.monotonic() + 10
    while (seen := await executor.poll(handle, 0)).liveness is Liveness.RUNNING:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)
    return seen


def steps_of(seen: Observation) -> list[int]:
    return [message.step for message in seen.messages if isinstance(message, Step)]


async def scripted(executor: ScriptedExecutor, script: Script) -> Observation:
    attempt = plan()
    executor.node.script(attempt.task_id, script)
    return await ended(executor, await executor.launch(attempt))


async def test_failing(executor: ScriptedExecutor) -> None:
    seen = await scripted(executor, Script(fail_at=3, reason=Reason.DIVERGED, words="loss is nan"))
    assert steps_of(seen) == [1, 2, 3]
    failed = seen.messages[-1]
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.message) == (Reason.DIVERGED, "loss is nan")
    assert seen.exit_code == 1
    assert seen.manifest is None
    assert [ref.step for ref in seen.checkpoints] == [2]


async def test_failing_before_the_first_step(executor: ScriptedExecutor) -> None:
    seen = await scripted(executor, Script(fail_at=0, reason=Reason.BAD_DATASET))
    assert [type(message) for message in seen.messages] == [Started, Failed]


async def test_dying_without_a_word(executor: ScriptedExecutor) -> None:
    seen = await scripted(executor, Script(die_at=2))
    assert steps_of(seen) == [1, 2]
    assert seen.manifest is None
    assert not any(isinstance(message, Failed | Finished) for message in seen.messages)


async def test_ending_well_without_a_manifest(executor: ScriptedExecutor) -> None:
    seen = await scripted(executor, Script(no_manifest=True))
    assert seen.exit_code == 0
    assert seen.manifest is None


async def test_hanging(executor: ScriptedExecutor) -> None:
    attempt = plan()
    executor.node.script(attempt.task_id, Script(hang_at=2))
    handle = await executor.launch(attempt)
    await asyncio.sleep(0.1)
    assert steps_of(await executor.poll(handle, 0)) == [1, 2]
    executor.kill(handle)
    assert (await executor.poll(handle, 0)).liveness is Liveness.EXITED


async def test_losing_the_node(executor: ScriptedExecutor) -> None:
    attempt = plan()
    executor.node.script(attempt.task_id, Script(lost_at=2))
    handle = await executor.launch(attempt)
    with pytest.raises(UnknownAttempt):
        await ended(executor, handle)
    assert await executor.adopt() == ()


async def test_each_attempt_follows_its_own_script_and_later_ones_succeed(executor: ScriptedExecutor) -> None:
    task_id = new_task_id()
    executor.node.script(task_id, Script(die_at=1), Script(fail_at=1))
    outcomes = [await ended(executor, await executor.launch(plan(fence, task_id))) for fence in (1, 2, 3)]
    assert [seen.exit_code for seen in outcomes] == [-9, 1, 0]
    assert [seen.manifest is not None for seen in outcomes] == [False, False, True]


async def test_equal_specs_give_equal_bytes_and_others_do_not(executor: ScriptedExecutor, storage: Storage) -> None:
    first = await scripted(executor, Script())
    second = await scripted(executor, Script())
    assert first.manifest is not None
    assert second.manifest is not None
    assert first.manifest.weights == second.manifest.weights
    longer = replace(plan(), training=training_spec(pictures=0, steps=STEPS + 1))
    third = await ended(executor, await executor.launch(longer))
    assert third.manifest is not None
    assert third.manifest.weights.sha256 != first.manifest.weights.sha256
