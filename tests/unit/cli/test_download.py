"""What a download shows, of a hub on loopback: the command alone knows whether it speaks to a terminal."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save

from maquette.testing.hub import HubServer, hub_server

FILE = "word.safetensors"
CONTENT = save({"emb_params": np.zeros((293, 768), np.float32)})
TOTAL = round(len(CONTENT) / 1000, 1)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"download +[━╸╺ ]+ (?P<done>[\d.]+)/(?P<total>[\d.]+) (?P<unit>\w+) .* left .* (?P<file>\S+) *")
PATIENCE = 60


class Shown(NamedTuple):
    """What a bar says: kilobytes by now and in all, and the file."""

    done: float
    total: float
    file: str


@pytest.fixture
def hub() -> Generator[HubServer]:
    with hub_server() as hub:
        hub.repositories["studio/words"] = {FILE: CONTENT}
        yield hub


def begin(hub: HubServer, data_dir: Path, stderr: int) -> subprocess.Popen[bytes]:
    """Have the command add what is on the hub."""
    source = f"studio/words/{FILE}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAQUETTE_")}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            *f"maquette bases add word --kind embedding --from {source} --data-dir".split(),
            data_dir,
        ],
        env=environment | hub.environment | {"COLUMNS": "120", "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


@contextmanager
def in_a_terminal(hub: HubServer, data_dir: Path) -> Generator[tuple[subprocess.Popen[bytes], Generator[str]]]:
    """Have the command do it with a terminal for stderr; its lines come as soon as they are drawn over or ended."""
    ours, theirs = pty.openpty()
    command = begin(hub, data_dir, theirs)
    os.close(theirs)
    try:
        yield command, lines_of(ours)
    finally:
        command.kill()
        command.wait(PATIENCE)
        os.close(ours)


def lines_of(terminal: int) -> Generator[str]:
    """The lines that are drawn on a terminal, without their colours, until nobody has its other end any more."""
    left = ""
    while data := some_of(terminal):
        *lines, left = re.split(r"[\r\n]+", left + data.decode(errors="replace"))
        yield from (plain for line in lines if (plain := CONTROL.sub("", line)))


def some_of(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # which is how Linux says so
        return b""


def bars(lines: list[str]) -> list[Shown]:
    found = [BAR.fullmatch(line) for line in lines if line.startswith("download")]
    assert all(one and one["unit"] == "kB" for one in found), lines
    return [Shown(float(one["done"]), float(one["total"]), one["file"]) for one in found if one]


def test_a_terminal_sees_bytes_come_and_what_a_killed_download_left_is_there_at_once(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.pause = 0.2
    first: list[Shown] = []
    with in_a_terminal(hub, tmp_path) as (command, lines):
        for line in lines:
            first += bars([line])
            if first and first[-1].done > TOTAL / 3:
                command.kill()
    (left,) = tmp_path.rglob(f".{FILE}.*")
    there = round(left.stat().st_size / 1000, 1)
    with in_a_terminal(hub, tmp_path) as (_, lines):
        second = bars(list(lines))
    assert {(one.total, one.file) for one in first + second} == {(TOTAL, FILE)}
    assert (first[0].done, second[0].done, second[-1].done) == (0, there, TOTAL)
    for seen in (first, second):
        by_now = [one.done for one in seen]
        assert by_now == sorted(by_now)
        assert len(set(by_now)) > 2, "it stood still while bytes came"


def test_elsewhere_it_is_one_line_when_all_is_there(hub: HubServer, tmp_path: Path) -> None:
    hub.pause = 0.05
    command = begin(hub, tmp_path, subprocess.PIPE)
    _, said = command.communicate(timeout=PATIENCE)
    assert not CONTROL.search(said.decode())
    assert bars(said.decode().splitlines()) == [(TOTAL, TOTAL, FILE)]
