"""Processes are killed in the middle of a training; every task ends in SUCCESS by itself, with the same bytes."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.client.records import TaskDetail
from maquette.core.processes import is_alive
from maquette.core.progress import Stopped, TrainerMessage
from maquette.core.rundir import ProcessRecord, RunDirectory

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PATIENCE = 180
PAST_THE_FIRST_CHECKPOINT = 7

Start = Callable[[str], str]


def until(client: Client, task_id: str, condition: Callable[[TaskDetail], bool]) -> TaskDetail:
    deadline = time.monotonic() + PATIENCE
    while not condition(task := client.task(task_id)):
        assert not task.ended, f"ended before that: {task}"
        assert time.monotonic() < deadline, f"still {task}"
        time.sleep(0.1)
    return task


def soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def trainer(server: ServerProcess, task_id: str, fence: int) -> int:
    """Process id of an attempt's trainer."""
    run = RunDirectory(server.data_dir / "runs" / task_id / str(fence))
    record = run.read(run.process, ProcessRecord)
    assert record is not None
    return record.pid


def succeeded(client: Client, task_id: str, folder: Path) -> bytes:
    *_, task = client.follow(task_id)
    assert task.task_status == "SUCCESS", task
    target = folder / task.models[0].model_name
    client.save_weights(task_id, target)
    return target.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(client: Client, served: TaskDetail, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The LoRA of a run that nobody disturbs."""
    return succeeded(client, served.task_id, tmp_path_factory.mktemp("undisturbed"))


def resumed_from(client: Client, task_id: str) -> list[int | None]:
    return [event["data"]["resumed_from"] for event in client.events(task_id) if event["kind"] == "started"]


def test_a_killed_trainer_is_resumed_to_the_same_bytes(
    server: ServerProcess, client: Client, start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    task_id = start("killed trainer")
    until(client, task_id, lambda task: task.step >= PAST_THE_FIRST_CHECKPOINT)
    os.killpg(trainer(server, task_id, 1), signal.SIGKILL)
    assert succeeded(client, task_id, tmp_path) == undisturbed
    first, second = resumed_from(client, task_id)
    assert first is None
    assert second is not None, "it began anew"


def test_a_killed_server_goes_on_after_its_restart(
    server: ServerProcess, client: Client, start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    task_id = start("killed server")
    until(client, task_id, lambda task: task.step > 2)
    pid = trainer(server, task_id, 1)
    server.kill()
    os.kill(pid, 0)  # the trainer lives on
    server.start()
    assert succeeded(client, task_id, tmp_path) == undisturbed
    assert resumed_from(client, task_id) == [None], "the running attempt was not adopted"


def test_server_and_trainer_killed_together_resume_after_the_restart(
    server: ServerProcess, client: Client, start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    task_id = start("power cut")
    until(client, task_id, lambda task: task.step >= PAST_THE_FIRST_CHECKPOINT)
    pid = trainer(server, task_id, 1)
    server.kill()
    os.killpg(pid, signal.SIGKILL)
    server.start()
    assert succeeded(client, task_id, tmp_path) == undisturbed
    assert len(resumed_from(client, task_id)) == 2


def test_stopping_everything_as_the_manual_says_loses_no_step(
    server: ServerProcess, client: Client, start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    task_id = start("stopped")
    until(client, task_id, lambda task: task.step >= PAST_THE_FIRST_CHECKPOINT)
    server.stop()
    run = RunDirectory(server.data_dir / "runs" / task_id / "1")
    record = run.read(run.process, ProcessRecord)
    assert record is not None
    assert is_alive(record), "it ended with the server"
    command = Path(f"/proc/{record.pid}/cmdline").read_bytes().decode().split("\0")
    assert f"maquette.trainer {server.data_dir.resolve()}/runs/" in " ".join(command), "the manual's pkill misses it"
    os.kill(record.pid, signal.SIGTERM)
    soon(lambda: not is_alive(record))
    stopped = msgspec.json.decode(run.events.read_bytes().splitlines()[-1], type=TrainerMessage)
    assert isinstance(stopped, Stopped)
    server.start()
    assert succeeded(client, task_id, tmp_path) == undisturbed
    assert resumed_from(client, task_id) == [None, stopped.step]
    moves = [event["data"]["reason"] for event in client.events(task_id) if event["kind"] == "task"]
    assert moves == ["created", "dispatched", "drained", "dispatched", "finished"]


def test_the_lora_says_what_it_was_made_from(undisturbed: bytes) -> None:
    length = int.from_bytes(undisturbed[:8], "little")
    metadata = msgspec.json.decode(undisturbed[8 : 8 + length], type=dict[str, msgspec.Raw])["__metadata__"]
    text = bytes(metadata).decode()
    assert "maquette-tiny" in text
    assert "ohwx creature" in text
