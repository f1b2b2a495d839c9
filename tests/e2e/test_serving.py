"""From a finished training to a picture drawn with it, over HTTP, by a real worker."""

import io
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops, ImageStat

from maquette.cli.server_process import ServerProcess
from maquette.client.records import TaskDetail
from maquette.server.models import gate

pytestmark = pytest.mark.torch

PATIENCE = 240.0
"""Seconds for a worker to start on a busy machine, and to draw."""


@pytest.fixture(scope="module")
def http(server: ServerProcess, api_key: str) -> Generator[httpx.Client]:
    headers = {"Authorization": f"Bearer {api_key}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def model(served: TaskDetail) -> str:
    """The published name of a model that is served."""
    return served.models[0].model_name


def wait(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not good(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def draw(http: httpx.Client, **request: Any) -> Image.Image:
    """Ask for one picture as a client does, wait for it, and fetch it without a header."""
    body = {
        "request": {"model_name": "maquette-tiny", "prompt": "ohwx creature", "width": 128, "height": 128} | request
    }
    body["request"] |= {"image_num": 1, "steps": 8, "seed": 5, "guidance_scale": 4, "sampler_name": "DDIM"}
    created = http.post("/v3/async/txt2img", json=body)
    assert created.status_code == 200, created.text
    found = wait(
        lambda: http.get("/v3/async/task-result", params=created.json()).json(),
        lambda found: found["task"]["status"] in {"TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED"},
    )
    assert found["task"]["status"] == "TASK_STATUS_SUCCEED", found
    (image,) = found["images"]
    fetched = httpx.get(image["image_url"], trust_env=False)
    assert fetched.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(fetched.content)).convert("RGB")


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of the channels, 0..255."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


def test_a_trained_model_is_served_and_draws_by_its_name_with_and_without_extension(
    http: httpx.Client, model: str
) -> None:
    plain = draw(http)
    with_lora = draw(http, loras=[{"model_name": model, "strength": 1}])
    assert plain.size == (128, 128)
    assert distance(plain, with_lora) > 1
    by_stem = draw(http, loras=[{"model_name": model.removesuffix(".safetensors"), "strength": 1}])
    assert distance(with_lora, by_stem) == 0
    assert distance(plain, draw(http)) == 0


def test_the_gate_tells_its_distances(http: httpx.Client, served: TaskDetail) -> None:
    detail = http.get(f"/v3/training/{served.task_id}").json()["model"]
    assert detail["verdict"] == "passed"
    assert detail["from_sample"]["mean"] <= gate.SAME_MEAN
    assert detail["from_sample"]["largest"] <= gate.SAME_LARGEST
    assert detail["from_base"]["mean"] > 10, "the character is nothing that the base draws by itself"


def test_the_model_is_among_the_private_ones(http: httpx.Client, model: str) -> None:
    found = http.get("/v3/model", params={"filter.visibility": "private", "filter.types": "lora"}).json()["models"]
    assert (model, 1) in [(one["sd_name"], one["status"]) for one in found]
