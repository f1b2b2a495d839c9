"""The client against a real HTTP server that is sometimes away."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from maquette.client import client as module
from maquette.client.client import Client
from maquette.core.errors import ErrorReason, MaquetteError

TASK_ID = "3c6f9d1e-1111-4222-8333-444455556666"


class Handler(BaseHTTPRequestHandler):
    """Answers what the test put in `answers`, one a request: (status, body), or None to hang up."""

    answers: ClassVar[list[tuple[int, bytes] | None]] = []
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        answer = self.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        status, body = answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Generator[Client]:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    Handler.answers, Handler.seen = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}", "key") as client:
            yield client
        server.shutdown()


def envelope(status: int, reason: str, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"code": status, "reason": reason, "message": message, "metadata": {}}).encode()


def page(*task_ids: str, cursor: str) -> tuple[int, bytes]:
    rows = [
        {
            "task_name": "cat",
            "task_id": task_id,
            "task_type": "subject",
            "task_status": "UNHEARD_OF",
            "created_at": 1750000000,
            "models": [],
            "new_field": 1,
        }
        for task_id in task_ids
    ]
    return 200, json.dumps({"tasks": rows, "pagination": {"next_cursor": cursor}}).encode()


def test_a_list_is_fetched_until_an_empty_page(client: Client) -> None:
    Handler.answers = [page("a", "b", cursor="c_7"), page("c", cursor="c_8"), page(cursor="")]
    assert [task.task_id for task in client.tasks()] == ["a", "b", "c"]
    assert ["cursor=c_7" in path for path in Handler.seen] == [False, True, False]


def test_reading_outlives_a_server_that_is_away(client: Client) -> None:
    Handler.answers = [None, envelope(503, "SERVICE_UNAVAILABLE", "away"), page(cursor="")]
    assert list(client.tasks()) == []
    assert len(Handler.seen) == 3


def test_an_error_envelope_becomes_its_error(client: Client) -> None:
    Handler.answers = [envelope(404, "TASK_NOT_FOUND", "task not found")]
    with pytest.raises(MaquetteError, match="task not found") as caught:
        client.raw_task(TASK_ID)
    assert caught.value.reason is ErrorReason.TASK_NOT_FOUND


@pytest.mark.parametrize("body", [b"<html>proxy</html>", b'{"reason": "UNHEARD_OF", "message": "?"}'])
def test_an_answer_nobody_documented_is_still_words(client: Client, body: bytes) -> None:
    Handler.answers = [(502, body)]
    with pytest.raises(MaquetteError, match="the server answered 502"):
        client.raw_task(TASK_ID)


def test_a_server_that_stays_away_is_an_error_in_the_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)
    Handler.answers = [None] * 50
    with pytest.raises(MaquetteError, match="can't be reached"):
        client.raw_task(TASK_ID)


def test_a_download_that_breaks_off_leaves_no_file(client: Client, tmp_path: Path) -> None:
    Handler.answers = [envelope(409, "CONFLICT", "the task is TRAINING and has no weights")]
    target = tmp_path / "lora.safetensors"
    with pytest.raises(MaquetteError, match="no weights"):
        client.save_weights(TASK_ID, target)
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_whole(client: Client, tmp_path: Path) -> None:
    Handler.answers = [(200, b"weights" * 1000)]
    target = tmp_path / "lora.safetensors"
    client.save_weights(TASK_ID, target)
    assert target.read_bytes() == b"weights" * 1000
