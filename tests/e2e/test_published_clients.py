"""Published clients lead a LoRA's whole life against a real server: the Python client itself, unmodified, and over raw
HTTP what the PHP and JavaScript clients send.
"""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from PIL import Image, ImageChops, ImageStat

from maquette.cli.server_process import ServerProcess
from maquette.testing.wire import JAVASCRIPT, KEYLESS, PHP, Answer, WireClient

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PATIENCE = 900.0
"""Seconds for a training, or for a worker to start and draw: trainers stand back behind all else on a busy machine."""
BASE, SIDE = "maquette-tiny", 128
SETTING = {
    "instance_prompt": "ohwx creature",
    "max_train_steps": "60",
    "learning_rate": "0.001",
    "seed": 7,
    "lora_r": 4,
}


def distance(one: bytes, other: bytes) -> float:
    """Mean difference of two pictures' channels, 0..255."""
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in (one, other)]
    assert [picture.size for picture in opened] == [(SIDE, SIDE)] * 2
    return sum(ImageStat.Stat(ImageChops.difference(*opened)).mean) / 3


# ------------------------------------------------------------------------------------------------- the Python client


class PythonLife(Struct):
    """What the Python client saw, and the folder of what it downloaded."""

    told: dict[str, Any]
    folder: Path

    def file(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def python_life(
    server: ServerProcess, api_key: str, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> PythonLife:
    subprocess.run(["make", "clients", f"PYTHON={sys.executable}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    folder = tmp_path_factory.mktemp("python-client")
    done = subprocess.run(
        [
            ROOT / ".venv.clients" / "bin" / "python",
            ROOT / "tests" / "clients" / "whole_life.py",
            server.url,
            api_key,
            folder,
            *pictures,
        ],
        check=True,
        stdout=subprocess.PIPE,
        # The server is on this machine, whatever proxy there is.
        env=os.environ | {"NO_PROXY": "127.0.0.1"},
    )
    return PythonLife(json.loads(done.stdout), folder)


def test_the_python_client_trains_lists_and_finds_its_model(python_life: PythonLife) -> None:
    told, name = python_life.told, python_life.told["model_name"]
    assert told["listed"] == [True, "subject", [name]]
    assert told["found"] == ["python-client", "lora", name.removesuffix(".safetensors"), "training", 1]
    assert name in told["queried"]
    assert told["bases"] == [f"{BASE}.safetensors"]
    assert told["balance"] > 0


def test_the_python_client_draws_by_name_with_and_without_extension(python_life: PythonLife) -> None:
    plain, named, stem = (python_life.file(f"{name}.jpeg") for name in ("plain", "named", "stem"))
    assert distance(plain, named) > 1
    assert named == stem
    assert distance(plain, python_life.file("from_picture.jpeg")) > 1


def test_the_python_client_downloads_its_lora(python_life: PythonLife) -> None:
    data = python_life.file("lora.safetensors")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert any("lora" in key for key in header)


# --------------------------------------------------------------------------------- the PHP and the JavaScript client


def ok(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    return answer.json()


def wait(look: Callable[[], Any], good: Callable[[Any], bool], pause: float) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not good(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(pause)
    return found


def as_php(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).replace("/", "\\/").encode()


def as_javascript(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def drawing(*loras: str) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model_name": BASE,
        "prompt": "ohwx creature",
        "width": SIDE,
        "height": SIDE,
        "image_num": 1,
    }
    request |= {"steps": 8, "seed": 5, "guidance_scale": 4, "sampler_name": "DDIM"}
    request["loras"] = [{"model_name": name, "strength": 1} for name in loras]
    return {"extra": {"response_image_type": "png"}, "request": request}


def draw(client: WireClient, prefix: str, body: bytes) -> bytes:
    """Ask for a picture, poll until it is there, and download it as everybody does, without a key."""
    created = ok(client.post("/v3/async/txt2img", body))
    found = wait(
        lambda: ok(client.get(f"{prefix}/async/task-result?task_id={created['task_id']}")),
        lambda found: found["task"]["status"] in {"TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED"},
        pause=0.3,
    )
    (image,) = found["images"]
    fetched = WireClient(client.host, "", KEYLESS).get(image["image_url"])
    assert (fetched.status, fetched.headers["content-type"]) == (200, "image/png")
    return fetched.body


@pytest.fixture(scope="module")
def host(server: ServerProcess) -> str:
    return server.url.removeprefix("http://")


@pytest.fixture(scope="module")
def php(host: str, api_key: str) -> WireClient:
    return WireClient(host, api_key, PHP)


@pytest.fixture(scope="module")
def javascript(host: str, api_key: str) -> WireClient:
    return WireClient(host, api_key, JAVASCRIPT)


@pytest.fixture(scope="module")
def php_model(php: WireClient, pictures: list[Path]) -> str:
    """The published name of a model that the PHP client uploaded pictures for, trained, and polled without `/v3`."""
    assets: list[str] = []
    for picture in pictures:
        address = ok(php.post("/v3/assets/training_dataset", as_php({"file_extension": picture.suffix[1:]})))
        assert address["method"] == "PUT"
        upload = WireClient(php.host, "", KEYLESS)
        assert (
            upload.put_when_told(address["upload_url"], picture.read_bytes(), "Content-Type: image/png").status == 200
        )
        assets.append(address["assets_id"])
    body = {
        "name": "php-client",
        "base_model": BASE,
        "width": SIDE,
        "height": SIDE,
        "image_dataset_items": [{"assets_id": asset_id, "caption": "ohwx creature"} for asset_id in assets],
        "expert_setting": SETTING,
        "components": [],
    }
    task_id = ok(php.post("/v3/training/subject", as_php(body)))["task_id"]
    ended = wait(
        lambda: ok(php.get(f"/training/subject?task_id={task_id}")),
        lambda status: status["task_status"] not in {"QUEUING", "TRAINING"},
        pause=0.5,
    )
    assert ended["task_status"] == "SUCCESS"
    assert ended["models"][0]["model_status"] in {"DEPLOYING", "SERVING"}
    assert task_id in [task["task_id"] for task in ok(php.get("/v3/training"))["tasks"]]
    return ended["models"][0]["model_name"]


def test_the_php_client_draws_as_soon_as_it_reads_success(php: WireClient, php_model: str) -> None:
    named = draw(php, "", as_php(drawing(php_model)))
    stem = draw(php, "", as_php(drawing(php_model.removesuffix(".safetensors"))))
    assert distance(named, stem) == 0
    assert distance(named, draw(php, "", as_php(drawing()))) > 1
    page = ok(
        php.get("/v3/model?filter.visibility=private&filter.is_nsfw=0&pagination.limit=100&pagination.cursor=c_0")
    )
    assert ("php-client", php_model.removesuffix(".safetensors")) in [
        (model["name"], model["sd_name_in_api"]) for model in page["models"]
    ]


def test_the_javascript_client_finds_the_model_and_draws(javascript: WireClient, php_model: str) -> None:
    """It has no calls for trainings: it draws with what others have trained."""
    query = "filter%5Bvisibility%5D=private&filter%5Btypes%5D%5B0%5D=lora&pagination%5Blimit%5D=100"
    listed = ok(javascript.get(f"/v3/model?{query}"))["models"]
    (found,) = [model for model in listed if model["sd_name"] == php_model]
    named = draw(javascript, "/v3", as_javascript(drawing(found["sd_name"])))
    stem = draw(javascript, "/v3", as_javascript(drawing(found["sd_name_in_api"])))
    assert distance(named, stem) == 0
    assert distance(named, draw(javascript, "/v3", as_javascript(drawing()))) > 1
    assert WireClient(javascript.host, "", KEYLESS).get(found["download_url"]).status == 200
