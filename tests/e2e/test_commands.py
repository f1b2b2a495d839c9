"""The command line as a user runs it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import IO

import httpx
import pytest
from PIL import Image

from maquette.cli.server_process import MAQUETTE, ServerProcess
from maquette.client import patience
from maquette.client.client import Client
from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType
from maquette.core.weights import read_header

pytestmark = pytest.mark.torch

TRAIN_OPTIONS = ("--base", "maquette-tiny", "--width", "128", "--height", "128", "--seed", "7", "--lora-r", "4")


def maquette(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*MAQUETTE, *arguments], capture_output=True, text=True, env=environment, check=False)


def read_until(words: str, lines: IO[str]) -> None:
    assert any(words in line for line in iter(lines.readline, ""))


class LosesAnAnswer(httpx.HTTPTransport):
    """A network on which the first training's answer is lost on its way back."""

    has_lost = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if self.has_lost or request.url.path != "/v3/training/subject":
            return response
        self.has_lost = True
        response.close()
        raise httpx.ReadError("lost")


@pytest.fixture
def folder(pictures: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in pictures:
        shutil.copy(picture, folder)
    (folder / "01.txt").write_text("ohwx creature with a scarf")
    return folder


@pytest.fixture
def held_out(pictures: list[Path], tmp_path: Path) -> Path:
    """A folder with a picture that is trained on too."""
    folder = tmp_path / "held-out"
    folder.mkdir()
    shutil.copy(pictures[0], folder / "unseen.png")
    return folder


def test_train_outlives_a_restart_of_the_server_and_saves_a_lora_that_draws(
    server: ServerProcess, user_environment: dict[str, str], folder: Path, held_out: Path, tmp_path: Path
) -> None:
    output = tmp_path / "loras"
    arguments = ("train", str(folder), "--name", "cat", *TRAIN_OPTIONS, "--max-train-steps", "20")
    arguments += ("--held-out", str(held_out), "--buckets", "--face-crop", "2")
    with subprocess.Popen(
        [*MAQUETTE, *arguments, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=user_environment,
    ) as training:
        assert training.stderr is not None
        read_until("task ", training.stderr)
        server.kill()
        read_until(f"waiting for {server.url}", training.stderr)
        server.start()
        stdout, stderr = training.communicate(timeout=180)
    assert training.returncode == 0, stderr
    (saved,) = output.iterdir()
    assert stdout.strip() == str(saved)
    assert saved.name.startswith("model_")
    assert saved.suffix == ".safetensors"

    listed = json.loads(maquette(user_environment, "list", "--json", "--limit", "1").stdout)
    assert listed[0]["models"][0]["model_name"] == saved.name
    assert "plan       about " in stderr
    assert "\nwarning    unseen.png (held out): the picture shows nearly the same as 01.png; " in stderr
    shown = maquette(user_environment, "show", listed[0]["task_id"])
    assert shown.returncode == 0
    assert "SUCCESS" in shown.stdout
    assert "picture 4: the picture shows nearly the same as picture 1; " in shown.stdout
    events = json.loads(maquette(user_environment, "events", listed[0]["task_id"], "--json").stdout)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert "near_duplicate" in {event["data"]["code"] for event in events if event["kind"] == "finding"}
    curve = json.loads(maquette(user_environment, "metrics", listed[0]["task_id"], "--json").stdout)
    assert [point["step"] for point in curve["points"]] == list(range(1, 21))
    assert all(point["steps_per_second"] > 0 for point in curve["points"])
    assert curve["validation"][0]["step"] == 0
    folder = tmp_path / "kohya"
    fetched = maquette(user_environment, "download", listed[0]["task_id"], "--layout", "kohya", "--output", str(folder))
    assert any("lora_unet" in name for name in read_header(folder / saved.name).tensors), fetched.stderr

    drawing = ("--base", "maquette-tiny", "--width", "128", "--height", "128", "--steps", "2", "--lora", saved.stem)
    drawn = maquette(user_environment, "generate", "ohwx creature", *drawing, "--output", str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    with Image.open(drawn.stdout.strip()) as picture:
        assert picture.size == (128, 128)


def test_a_task_can_be_started_watched_and_cancelled(user_environment: dict[str, str], folder: Path) -> None:
    started = maquette(
        user_environment, "train", str(folder), "--name", "dog", *TRAIN_OPTIONS, "--max-train-steps", "2000", "--detach"
    )
    task_id = started.stdout.strip()
    assert maquette(user_environment, "cancel", task_id).returncode == 0
    watched = maquette(user_environment, "watch", task_id)
    assert watched.returncode == 1
    assert "CANCELED" in watched.stdout


def test_a_training_whose_answer_was_lost_is_created_once(
    server: ServerProcess, api_key: str, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.0)
    with Client(server.url, api_key, transport=LosesAnAnswer()) as client:
        items = [DatasetItem(client.upload(pictures[0]))]
        task_id = client.create_training(
            TaskType.SUBJECT,
            name="once",
            base_model="maquette-tiny",
            width=128,
            height=128,
            items=items,
            expert_setting=ExpertSetting(),
        )
        client.cancel(task_id)
        assert [task.task_id for task in client.tasks() if task.task_name == "once"] == [task_id]


def test_errors_are_words_and_a_stable_reason(user_environment: dict[str, str], folder: Path) -> None:
    refused = maquette(user_environment, "train", str(folder), "--name", "x", "--base", "no-such-base")
    assert refused.returncode == 1
    assert "INVALID_REQUEST_BODY" in refused.stderr
    assert "maquette-tiny" in refused.stderr
    assert "Traceback" not in refused.stderr
    stranger = user_environment | {"MAQUETTE_API_KEY": "mq_nobody"}
    assert "INVALID_API_KEY" in maquette(stranger, "list").stderr
    nobody = {name: value for name, value in user_environment.items() if name != "MAQUETTE_API_KEY"}
    assert "MAQUETTE_API_KEY" in maquette(nobody, "list").stderr


def test_a_second_server_on_the_same_data_is_refused(server: ServerProcess) -> None:
    second = ServerProcess(server.data_dir)
    with pytest.raises(RuntimeError, match="another server runs on"):
        second.start()


def test_every_expert_setting_is_an_option(user_environment: dict[str, str]) -> None:
    shown = maquette(user_environment | {"COLUMNS": "200"}, "train", "--help").stdout
    for name in ExpertSetting.__struct_fields__:
        assert f"--{name.replace('_', '-')}" in shown


def test_a_revoked_key_opens_nothing(server: ServerProcess) -> None:
    key = server.command("keys", "create", "--tenant", "shortlived")
    with Client(server.url, key) as holder:
        assert list(holder.tasks()) == []
        listed = json.loads(server.command("keys", "list", "--json"))
        (lookup,) = (found["lookup"] for found in listed if found["tenant"] == "shortlived")
        server.command("keys", "revoke", lookup)
        with pytest.raises(MaquetteError) as refused:
            list(holder.tasks())
    assert refused.value.reason is ErrorReason.INVALID_API_KEY
