"""The server is killed while a webhook is being told; the next start tells it again, and counts the lost call."""

import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from maquette.cli.server_process import ServerProcess

PATIENCE = 60
SETTINGS = {"MAQUETTE_OUTBOUND_ALLOW": "127.0.0.1", "MAQUETTE_WEBHOOK_TIMEOUT": "5"}


class Hook(ThreadingHTTPServer):
    """Takes the first event without ever answering, and answers all others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.told: list[dict[str, Any]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/done"


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hook)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.told.append(msgspec.json.decode(body))
        if len(self.server.told) == 1:
            self.server.released.wait(PATIENCE)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def hook() -> Generator[Hook]:
    with Hook() as hook:
        thread = threading.Thread(target=hook.serve_forever, daemon=True)
        thread.start()
        yield hook
        hook.released.set()
        hook.shutdown()
        thread.join()


def delivery(server: ServerProcess) -> tuple[Any, ...]:
    with closing(sqlite3.connect(server.data_dir / "maquette.db")) as database:
        ((attempts, delivered_at, gave_up_at),) = database.execute(
            "SELECT attempts, delivered_at IS NOT NULL, gave_up_at IS NOT NULL FROM webhook_deliveries"
        )
    return attempts, bool(delivered_at), bool(gave_up_at)


def let_its_call_lapse(server: ServerProcess) -> None:
    """Nobody repeats what a server has begun until its call must have ended: let that time pass."""
    with closing(sqlite3.connect(server.data_dir / "maquette.db")) as database, database:
        database.execute("UPDATE webhook_deliveries SET not_before = not_before - 60")


def until_told(hook: Hook, times: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(hook.told) < times:
        assert time.monotonic() < deadline, f"told {len(hook.told)} times"
        time.sleep(0.05)


def test_a_webhook_is_told_again_after_the_server_was_killed(hook: Hook, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", SETTINGS) as server:
        key = server.command("keys", "create", "--tenant", "hooked")
        webhook = {"url": hook.url, "test_mode": {"enabled": True, "return_task_status": "TASK_STATUS_FAILED"}}
        asked = {
            "extra": {"webhook": webhook},
            "request": {"model_name": "maquette-tiny", "prompt": "a creature", "width": 128, "height": 128},
        }
        created = httpx.post(f"{server.url}/v3/async/txt2img", json=asked, headers={"Authorization": key})
        assert created.status_code == 200, created.text
        until_told(hook, 1)
        server.kill()
        assert delivery(server) == (1, False, False)
        let_its_call_lapse(server)
        server.start()
        until_told(hook, 2)
        first, second = hook.told
        assert first == second
        assert second["payload"]["task"] | {"task_id": created.json()["task_id"]} == second["payload"]["task"]
        deadline = time.monotonic() + PATIENCE
        while delivery(server) != (2, True, False):
            assert time.monotonic() < deadline, delivery(server)
            time.sleep(0.05)
