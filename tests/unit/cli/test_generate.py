"""`maquette generate` checks what it is asked before it sends it, and saves what was drawn."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from maquette.testing.commands import Play, Run

TASK_ID = "3c6f9d1e-1111-4222-8333-444455556666"
PICTURE = "http://pictures.test/images/a.webp?signature=abc"


class Drawing:
    """A server whose one image task ends in this status as soon as it is asked for."""

    def __init__(self, status: str = "TASK_STATUS_SUCCEED", reason: str = "") -> None:
        self.status = status
        self.reason = reason
        self.sent: dict[str, dict[str, Any]] = {}

    @property
    def task(self) -> dict[str, Any]:
        picture = {"image_url": PICTURE, "image_type": "webp"}
        return {
            "task": {
                "task_id": TASK_ID,
                "status": self.status,
                "reason": self.reason,
                "eta": 0,
                "progress_percent": 100,
            },
            "images": [picture, picture] if self.status == "TASK_STATUS_SUCCEED" else [],
            "extra": {"seed": "42"},
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path:
            case "POST", path:
                self.sent[path] = json.loads(request.content)["request"]
                return httpx.Response(200, json={"task_id": TASK_ID})
            case _, "/v3/async/task-result":
                return httpx.Response(200, json=self.task)
            case _:
                return httpx.Response(200, content=b"picture")


def test_words_become_files(run: Run, play: Play, tmp_path: Path) -> None:
    server = Drawing()
    play(server)
    options = ("--lora", "model_1", "--lora", "model_2.safetensors:0.5", "--seed", "7", "--sampler-name", "DPM++ 2M")
    output = tmp_path / "[red]pictures[/x]"
    ended = run("generate", "a [red] cat", "--base", "tiny", *options, "--output", output)
    files = [output / f"{TASK_ID}-{number}.webp" for number in (0, 1)]
    assert (ended.code, ended.out) == (0, f"{files[0]}\n{files[1]}\n"), ended.err
    assert [file.read_bytes() for file in files] == [b"picture"] * 2
    assert f"image task {TASK_ID}\n" in ended.err
    sent = server.sent["/v3/async/txt2img"]
    assert (sent["model_name"], sent["prompt"], sent["seed"]) == ("tiny", "a [red] cat", 7)
    assert sent["sampler_name"] == "DPM++ 2M"
    assert sent["loras"] == [
        {"model_name": "model_1", "strength": 1.0},
        {"model_name": "model_2.safetensors", "strength": 0.5},
    ]


def test_a_picture_may_be_where_it_starts(run: Run, play: Play, tmp_path: Path) -> None:
    server = Drawing()
    play(server)
    (tmp_path / "cat.png").write_bytes(b"bytes")
    ended = run("generate", "a cat", "--base", "tiny", "--from", tmp_path / "cat.png", "--output", tmp_path)
    assert ended.code == 0, ended.err
    sent = server.sent["/v3/async/img2img"]
    assert (sent["image_base64"], sent["strength"]) == ("Ynl0ZXM=", 0.75)


def test_json_is_the_task_and_where_its_files_are(run: Run, play: Play, tmp_path: Path) -> None:
    server = Drawing()
    play(server)
    ended = run("generate", "a cat", "--base", "tiny", "--output", tmp_path, "--json")
    files = [str(tmp_path / f"{TASK_ID}-{number}.webp") for number in (0, 1)]
    assert json.loads(ended.out) == server.task | {"files": files}


def test_a_task_that_failed_says_why(run: Run, play: Play, tmp_path: Path) -> None:
    server = Drawing("TASK_STATUS_FAILED", "The device [x] ran out of memory.")
    play(server)
    ended = run("generate", "a cat", "--base", "tiny", "--output", tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert "TASK_STATUS_FAILED The device [x] ran out of memory." in ended.err
    assert json.loads(run("generate", "a cat", "--base", "tiny", "--json").out) == server.task
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--width", "100"), "--width"),
        (("--steps", "0"), "--steps"),
        (("--guidance-scale", "nan"), "--guidance-scale"),
        (("--sampler-name", "Euler b"), "--sampler-name"),
        (("--strength", "2"), "--strength"),
        (("--from", "no-such.png"), "--from"),
        (("--negative-prompt", "x" * 1025), "negative_prompt"),
        (("--lora", "model:much"), "lora: must be NAME or NAME:STRENGTH, got 'model:much'"),
        (("--lora", "model:2"), "loras[0].strength"),
    ],
)
def test_options_are_checked_before_anything_is_sent(
    run: Run, play: Play, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    requests = play(Drawing())
    ended = run("generate", "a cat", "--base", "tiny", "--output", tmp_path / "pictures", *options)
    assert ended.code in {1, 2}
    assert words in ended.err
    assert requests == []
    assert list(tmp_path.iterdir()) == []
