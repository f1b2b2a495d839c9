"""Whoever draws is killed in the middle of it; every picture comes out all the same, and as if nobody had been."""

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.client.records import ImageTask, TaskDetail
from maquette.core.image_specs import LoraChoice, TextToImage
from maquette.core.lifecycle import ImageStatus

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PATIENCE = 240
QUEUED = 20
MIDDLE = range(10, 80)
"""Percent."""
REQUEST = TextToImage(
    model_name="maquette-tiny", prompt="ohwx creature", width=128, height=128, image_num=1, seed=5, steps=4
)


def workers(server: ServerProcess) -> Generator[int]:
    """Process ids of the server's inference workers."""
    assert server._process is not None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            # It has ended meanwhile.
            continue
        if b"maquette.inference" in command and int(parent) == server._process.pid:
            yield int(process.name)


def statuses(server: ServerProcess, task_ids: list[str]) -> Counter[str]:
    """How many of these image tasks have which status in the database of a server that is gone."""
    with closing(sqlite3.connect(server.data_dir / "maquette.db")) as connection:
        rows: list[tuple[str, str]] = connection.execute("SELECT id, status FROM image_tasks").fetchall()
    return Counter(status for task_id, status in rows if task_id in task_ids)


def until(client: Client, task_id: str, condition: Callable[[ImageTask], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(found := client.image_task(task_id)):
        assert not found.ended, f"ended before that: {found}"
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_a_worker_killed_in_the_middle_of_a_picture_changes_nothing_of_it(
    server: ServerProcess, client: Client, served: TaskDetail, drawn: Callable[[str], bytes]
) -> None:
    request = replace(REQUEST, steps=60, loras=[LoraChoice(model_name=served.models[0].model_name)])
    undisturbed = drawn(client.text_to_image(request))
    (killed,) = workers(server)
    task_id = client.text_to_image(request)
    until(client, task_id, lambda found: found.task.progress_percent in MIDDLE)
    os.kill(killed, signal.SIGKILL)
    assert drawn(task_id) == undisturbed
    (successor,) = workers(server)
    assert successor != killed


def test_pictures_that_wait_while_the_server_is_killed_are_all_drawn(
    server: ServerProcess, client: Client, drawn: Callable[[str], bytes]
) -> None:
    # The first takes long enough to be killed in the middle of it; those behind it only have to wait.
    long = replace(REQUEST, steps=60)
    undisturbed = [drawn(client.text_to_image(request)) for request in (long, REQUEST)]
    (orphan,) = workers(server)
    waiting = [client.text_to_image(request) for request in (long, *[REQUEST] * (QUEUED - 1))]
    until(client, waiting[0], lambda found: found.task.progress_percent in MIDDLE)
    server.kill()
    found = statuses(server, waiting)
    server.start()
    assert found[ImageStatus.QUEUED] > 0, found
    assert found[ImageStatus.PROCESSING] > 0, found
    assert found[ImageStatus.SUCCEED] < QUEUED, found
    assert found.total() == QUEUED
    first, *others = (drawn(task_id) for task_id in waiting)
    assert [first, *set(others)] == undisturbed
    assert not Path(f"/proc/{orphan}").exists(), "the worker of a server that is gone draws on"
