"""`maquette train` looks at everything before it sends anything, and says what it did."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from maquette.cli.train import ARGUMENTS, PictureOptions
from maquette.core.specs import COMPONENTS, MAX_CAPTION, MAX_PICTURES, MAX_SIDE, Resize
from maquette.testing.commands import Play, Run

TASK_ID = "3c6f9d1e-1111-4222-8333-444455556666"
MODEL = "model_1750000540_0A1B2C3D4E.safetensors"
OPTIONS = ("--name", "cat", "--base", "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    folder = tmp_path / "held-out"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"another")
    (folder / "a.txt").write_text("a cat that nobody has seen")
    return folder


def found(number: int, picture: str, message: str) -> dict[str, Any]:
    """An event that tells of a finding."""
    data = {"code": "blurred", "severity": "warning", "message": message, "picture": picture}
    return {"number": number, "kind": "finding", "created_at": 1750000000.0, "data": data}


def detail(status: str, pictures: int = 2, message: str = "[/x]") -> dict[str, Any]:
    return {
        "task_name": "cat",
        "task_id": TASK_ID,
        "task_type": "subject",
        "task_status": status,
        "created_at": 1750000000,
        "models": [{"model_name": MODEL, "model_status": "DEPLOYING"}] if status == "SUCCESS" else [],
        "reason": "finished",
        "message": message,
        "step": 5,
        "total_steps": 5,
        "eta_seconds": 0,
        "settings": {},
        "pictures": [
            {"name": f"0{position}-9b1f.png", "sha256": "", "caption": "a photo"} for position in range(pictures)
        ],
    }


class Training:
    """A server whose one task ends at once in this status; pictures that hold text are refused."""

    def __init__(self, status: str = "SUCCESS", message: str = "[/x]", history: Sequence[dict[str, Any]] = ()) -> None:
        self.status = status
        self.message = message
        self.history = history
        self.body: dict[str, Any] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path.removeprefix("/v3"):
            case "POST", "/assets/training_dataset":
                return httpx.Response(200, json={"assets_id": "9b1f", "upload_url": "http://uploads.test/9b1f.png"})
            case "PUT", _ if request.content == b"text":
                words = {"code": 400, "reason": "INVALID_IMAGE_FORMAT", "message": "is no picture", "metadata": {}}
                return httpx.Response(400, json=words)
            case "PUT", _:
                return httpx.Response(200)
            case "POST", "/training/subject":
                self.body = json.loads(request.content)
                return httpx.Response(200, json={"task_id": TASK_ID})
            case "GET", path if path.endswith("/events"):
                after = int(request.url.params["after"])
                return httpx.Response(200, json={"events": [one for one in self.history if one["number"] > after]})
            case "GET", path if path.endswith("/weights"):
                return httpx.Response(200, text=f"weights as {request.url.params['layout']}")
            case _:
                return httpx.Response(
                    200, json=detail(self.status, len(self.body["image_dataset_items"]), self.message)
                )


def test_a_folder_becomes_a_file(run: Run, play: Play, folder: Path, tmp_path: Path) -> None:
    server = Training()
    play(server)
    (folder / "a.txt").write_text("\ufeffein Bär\n", "utf-8")
    (folder / "b.txt").write_text(" \n")
    output = tmp_path / "[red]loras[/x]"
    ended = run("train", folder, *OPTIONS, "--output", output)
    assert (ended.code, ended.out) == (0, f"{output / MODEL}\n"), ended.err
    assert (output / MODEL).read_text() == "weights as diffusers"
    assert f"task {TASK_ID}\n" in ended.err
    assert server.body["image_dataset_items"] == [
        {"assets_id": "9b1f", "caption": "ein Bär"},
        {"assets_id": "9b1f"},
    ]


def test_the_layout_is_asked_for(run: Run, play: Play, folder: Path, tmp_path: Path) -> None:
    play(Training())
    ended = run("train", folder, *OPTIONS, "--output", tmp_path, "--layout", "kohya")
    assert (tmp_path / MODEL).read_text() == "weights as kohya", ended.err


def test_the_captions_that_were_checked_are_sent(run: Run, play: Play, folder: Path) -> None:
    server = Training()
    caption = folder / "a.txt"
    caption.write_text("a cat")

    def overwrite(request: httpx.Request) -> httpx.Response:
        caption.write_bytes(b"\xff")
        return server(request)

    play(overwrite)
    ended = run("train", folder, *OPTIONS, "--detach")
    assert ended.code == 0, ended.err
    assert [item.get("caption") for item in server.body["image_dataset_items"]] == ["a cat", None]


def test_pictures_are_prepared_and_held_out_as_the_options_say(
    run: Run, play: Play, folder: Path, held_out: Path
) -> None:
    server = Training()
    play(server)
    options = ("--buckets", "--face-crop", "1.5", "--face-restore-upscale", "2", "--background", "#ABCDEF")
    ended = run("train", folder, *OPTIONS, "--held-out", held_out, *options, "--detach")
    assert ended.code == 0, ended.err
    assert server.body["image_dataset_items"] == [
        {"assets_id": "9b1f"},
        {"assets_id": "9b1f"},
        {"assets_id": "9b1f", "caption": "a cat that nobody has seen", "held_out": True},
    ]
    assert server.body["components"] == [
        {"name": "resize", "args": [{"name": "buckets", "value": True}]},
        {"name": "face_crop_region", "args": [{"name": "ratio", "value": 1.5}]},
        {
            "name": "face_restore",
            "args": [{"name": "method", "value": "gfpgan_1.4"}, {"name": "upscale", "value": 2.0}],
        },
        {"name": "background", "args": [{"name": "color", "value": "#ABCDEF"}]},
    ]


def test_pictures_are_left_as_they_come_if_nothing_is_asked_for(run: Run, play: Play, folder: Path) -> None:
    server = Training()
    play(server)
    assert run("train", folder, *OPTIONS, "--detach").code == 0
    assert server.body["components"] == []


def test_every_argument_of_a_component_is_an_option() -> None:
    options = {(kind, argument) for kind, argument in ARGUMENTS.values()} | {(Resize, "width"), (Resize, "height")}
    assert options == {(kind, argument) for kind in COMPONENTS.values() for argument in kind.__struct_fields__}
    assert list(ARGUMENTS) == list(PictureOptions.__struct_fields__)


def test_what_is_found_is_told_of_the_files_themselves(
    run: Run, play: Play, folder: Path, held_out: Path, tmp_path: Path
) -> None:
    alike = "the picture shows nearly the same as 00-9b1f.png"
    play(Training(history=[found(1, "01-9b1f.png", "is blurred"), found(2, "02-9b1f.png", alike)]))
    ended = run("train", folder, *OPTIONS, "--held-out", held_out, "--output", tmp_path)
    assert (ended.code, ended.out) == (0, f"{tmp_path / MODEL}\n")
    assert "warning    b.png: is blurred\n" in ended.err
    assert "warning    a.png (held out): the picture shows nearly the same as a.png\n" in ended.err
    assert "9b1f" not in ended.err


def test_json_is_the_task_and_where_its_file_is(run: Run, play: Play, folder: Path, tmp_path: Path) -> None:
    play(Training())
    ended = run("train", folder, *OPTIONS, "--output", tmp_path, "--json")
    assert json.loads(ended.out) == detail("SUCCESS") | {"file": str(tmp_path / MODEL)}


def test_detached_it_prints_the_id_or_the_task(run: Run, play: Play, folder: Path) -> None:
    play(Training("QUEUING"))
    assert run("train", folder, *OPTIONS, "--detach").out == f"{TASK_ID}\n"
    assert json.loads(run("train", folder, *OPTIONS, "--detach", "--json").out) == detail("QUEUING")


def test_a_training_that_failed_says_why(run: Run, play: Play, folder: Path) -> None:
    play(Training("FAILED"))
    ended = run("train", folder, *OPTIONS)
    assert (ended.code, ended.out) == (1, "")
    assert "FAILED [/x]" in ended.err
    assert json.loads(run("train", folder, *OPTIONS, "--json").out) == detail("FAILED")


def test_a_training_that_failed_over_a_picture_names_its_file(run: Run, play: Play, folder: Path) -> None:
    play(Training("FAILED", message="01-9b1f.png: can't be decoded"))
    assert "FAILED b.png: can't be decoded\n" in run("train", folder, *OPTIONS).err


def test_a_refused_picture_is_named(run: Run, play: Play, folder: Path) -> None:
    play(Training())
    (folder / "b.png").write_text("text")
    ended = run("train", folder, *OPTIONS)
    assert ended.code == 1
    assert f"{folder / 'b.png'}: is no picture" in ended.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--learning-rate", "0"), "expert_setting.learning_rate: must be above 0"),
        (("--learning-rate", "nan"), "--learning-rate"),
        (("--width", str(MAX_SIDE + 1)), "--width"),
        (("--height", "0"), "--height"),
        (("--lora-r", "3"), "--lora-r"),
        (("--instance-prompt", "x" * (MAX_CAPTION + 1)), "instance_prompt"),
        (("--name", ""), "name"),
        (("--layout", "comfyui"), "--layout"),
        (("--face-crop", "11"), "--face-crop"),
        (("--face-restore", "hands"), "--face-restore"),
        (("--background", "red"), "background: must be a string that matches ^#[0-9a-fA-F]{6}$"),
        (("--held-out", "{folder}/none"), "--held-out"),
        (("--output", "{folder}/a.png"), "a.png"),
    ],
)
def test_options_are_checked_before_anything_is_sent(
    run: Run, play: Play, folder: Path, options: tuple[str, ...], words: str
) -> None:
    requests = play(Training())
    ended = run("train", folder, *OPTIONS, *(option.format(folder=folder) for option in options))
    assert ended.code in {1, 2}
    assert words in ended.err
    assert requests == []


def test_pictures_that_are_held_out_are_counted_too(run: Run, play: Play, folder: Path, held_out: Path) -> None:
    requests = play(Training())
    for number in range(MAX_PICTURES - 1):
        (held_out / f"{number}.webp").touch()
    ended = run("train", folder, *OPTIONS, "--held-out", held_out)
    assert ended.code == 1
    assert (
        f"image_dataset_items: must be a list of 1 to {MAX_PICTURES} items, got {MAX_PICTURES + 2} items" in ended.err
    )
    assert requests == []


def test_too_many_pictures_are_counted_before_anything_is_sent(run: Run, play: Play, folder: Path) -> None:
    requests = play(Training())
    for number in range(MAX_PICTURES - 1):
        (folder / f"{number}.webp").touch()
    ended = run("train", folder, *OPTIONS)
    assert ended.code == 1
    assert f"holds {MAX_PICTURES + 1} pictures" in ended.err
    assert requests == []


@pytest.mark.parametrize(
    ("name", "content"), [("b.txt", "Bär".encode("latin-1")), ("b.txt", b"x" * (MAX_CAPTION + 1)), ("c.png", None)]
)
def test_files_are_read_before_anything_is_sent(
    run: Run, play: Play, folder: Path, name: str, content: bytes | None
) -> None:
    requests = play(Training())
    file = folder / name
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    ended = run("train", folder, *OPTIONS)
    assert ended.code == 1
    assert str(file) in ended.err
    assert requests == []
