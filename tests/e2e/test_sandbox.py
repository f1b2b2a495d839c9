"""A sandbox as an integrator uses it: what is asked to break down does, and everything else works as anywhere."""

import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.client.records import DrawingStatus, ImageTask, Status, TaskDetail
from maquette.core.errors import MaquetteError
from maquette.core.image_specs import ImageExtra, LoraChoice, TextToImage, Webhook
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType
from maquette.server.loops.deliver import SLOW_WEBHOOK

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PUBLISHED = "dreamshaper_8_93211"
STEPS = 12
TRAININGS = {
    "sandbox: out-of-memory": (Status.FAILED, ["out_of_memory"] * 2, "DefaultCPUAllocator"),
    "sandbox: nan": (Status.FAILED, ["diverged"], "the loss of step 2"),
    "sandbox: lost-worker": (Status.FAILED, ["worker_lost"] * 5, "The training process was lost."),
    "sandbox: lost-worker-once": (Status.SUCCESS, ["worker_lost", "finished"], ""),
    "sandbox: rejected": (Status.SUCCESS, ["finished"], ""),
}
"""How trainings of these names end: their status, why their attempts ended, and what is among the message's words."""
PICTURES = {
    "sandbox: out-of-memory": "The device ran out of memory.",
    "sandbox: nan": "The picture came out as numbers that are not finite.",
    "sandbox: lost-worker": "The process that drew the picture was lost.",
}
"""Why pictures of these prompts fail."""


class Called(NamedTuple):
    """A webhook call: when (monotonic seconds), and of which image task."""

    at: float
    task_id: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    settings = {
        "MAQUETTE_SANDBOX_STEPS": str(STEPS),
        "MAQUETTE_CHECKPOINT_EVERY": "5",
        "MAQUETTE_OUTBOUND_ALLOW": "127.0.0.0/8",
        "MAQUETTE_TRAINER_NICE": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with ServerProcess(tmp_path_factory.mktemp("sandbox") / "data", settings, options=("--sandbox",)) as server:
        yield server


@pytest.fixture(scope="module")
def key(server: ServerProcess) -> str:
    return server.command("keys", "create", "--tenant", "integrator")


@pytest.fixture(scope="module")
def client(server: ServerProcess, key: str) -> Generator[Client]:
    with Client(server.url, key) as client:
        yield client


@pytest.fixture(scope="module")
def debug_info(server: ServerProcess, key: str) -> Generator[Callable[[str], dict[str, str]]]:
    """What a result says of the course of an image task that has ended; the client has no need of it."""
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}) as http:

        def ask(task_id: str) -> dict[str, str]:
            return http.get("/v3/async/task-result", params={"task_id": task_id}).json()["extra"]["debug_info"]

        yield ask


@pytest.fixture(scope="module")
def trained(client: Client, pictures: list[Path]) -> dict[str, TaskDetail]:
    """Each training's end, by its name; all of them wait in one queue."""
    items = [DatasetItem(client.upload(picture)) for picture in pictures]
    setting = ExpertSetting(max_train_steps=2000, seed=7, learning_rate=3e-4, instance_prompt="ohwx creature")
    tasks = {
        name: client.create_training(
            TaskType.SUBJECT,
            name=name,
            base_model=PUBLISHED,
            width=512,
            height=512,
            items=items,
            expert_setting=setting,
        )
        for name in TRAININGS
    }
    return {name: last(client.follow_model(task_id)) for name, task_id in tasks.items()}


def last(found: Any) -> Any:
    *_, end = found
    return end


def draw(client: Client, prompt: str, **changes: Any) -> str:
    request = TextToImage(model_name=f"{PUBLISHED}.safetensors", prompt=prompt, width=512, height=512, **changes)
    return client.text_to_image(request)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_ends_as_it_was_asked_to(client: Client, trained: dict[str, TaskDetail], name: str) -> None:
    status, attempts, words = TRAININGS[name]
    task = trained[name]
    assert (task.task_status, task.total_steps) == (status, STEPS)
    assert words in task.message
    assert [attempt["reason"] for attempt in client.raw_task(task.task_id)["attempts"]] == attempts


def test_the_events_of_a_training_say_each_cap(client: Client, trained: dict[str, TaskDetail]) -> None:
    told = client.events(trained["sandbox: nan"].task_id)
    assert [event["data"]["text"] for event in told if event["kind"] == "note"] == [
        f"sandbox: base_model is maquette-tiny here, not {PUBLISHED}",
        "sandbox: width is 128 here, not 512",
        "sandbox: height is 128 here, not 512",
        f"sandbox: max_train_steps is {STEPS} here, not 2000",
    ]


def test_what_was_trained_is_served_and_draws_with_a_published_base(
    client: Client, trained: dict[str, TaskDetail], tmp_path: Path
) -> None:
    task = trained["sandbox: lost-worker-once"]
    assert task.served, task.model
    lora = LoraChoice(model_name=task.models[0].model_name, strength=1.0)
    drawn: ImageTask = last(client.follow_image(draw(client, "ohwx creature", steps=4, loras=[lora])))
    assert drawn.task.status is DrawingStatus.SUCCEED, drawn.task.reason
    client.save_picture(drawn.images[0], tmp_path / "creature.png")


def test_a_model_that_was_to_be_rejected_is_and_drawing_with_it_is_refused(
    client: Client, trained: dict[str, TaskDetail]
) -> None:
    task = trained["sandbox: rejected"]
    assert task.rejected
    (model,) = task.models
    assert model.model_status == "DEPLOYING"
    with pytest.raises(MaquetteError, match=r"was refused.*it changes nothing"):
        draw(client, "ohwx creature", loras=[LoraChoice(model_name=model.model_name, strength=1.0)])


def test_pictures_end_as_they_were_asked_to_and_others_are_drawn_meanwhile(
    client: Client, debug_info: Callable[[str], dict[str, str]]
) -> None:
    asked = {prompt: draw(client, prompt) for prompt in PICTURES}
    plain = draw(client, "a red circle", steps=4)
    for prompt, task_id in asked.items():
        ended: ImageTask = last(client.follow_image(task_id))
        assert ended.task.status is DrawingStatus.FAILED
        assert PICTURES[prompt] in ended.task.reason
    assert last(client.follow_image(plain)).task.status is DrawingStatus.SUCCEED
    # It waits for a new worker once or twice, and not until the last one has been killed.
    lost = asked["sandbox: lost-worker"]
    assert int(debug_info(plain)["complete_time_ms"]) < int(debug_info(lost)["complete_time_ms"])
    assert debug_info(plain)["request_info"] == (
        f"sandbox: model_name is maquette-tiny here, not {PUBLISHED}.safetensors;"
        " sandbox: width is 128 here, not 512; sandbox: height is 128 here, not 512"
    )


@pytest.fixture
def webhook() -> Generator[tuple[str, list[Called]]]:
    """An address that takes events, and those it took."""
    calls: list[Called] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
            calls.append(Called(time.monotonic(), event["payload"]["task"]["task_id"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Taker) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/done", calls
        server.shutdown()
        serving.join()


def test_a_webhook_that_is_to_be_slow_is_told_late_and_another_at_once(
    client: Client, webhook: tuple[str, list[Called]]
) -> None:
    url, calls = webhook
    extra = ImageExtra(webhook=Webhook(url=url))

    def ended(prompt: str) -> tuple[str, float]:
        request = TextToImage(model_name=PUBLISHED, prompt=prompt, width=128, height=128, steps=2)
        task_id = client.text_to_image(request, extra)
        last(client.follow_image(task_id))
        return task_id, time.monotonic()

    slow, slow_ended = ended("sandbox: slow-webhook a red circle")
    quick, quick_ended = ended("a red circle")
    wait_for(lambda: len(calls) == 2)
    assert [call.task_id for call in sorted(calls)] == [quick, slow]
    first, second = sorted(calls)
    assert second.at - slow_ended > SLOW_WEBHOOK - 2
    assert first.at - quick_ended < SLOW_WEBHOOK / 2


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
