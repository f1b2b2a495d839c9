"""The whole life of a LoRA as the published Python client leads it, unmodified: only its base URL is set.

Runs in the environment of `make clients`. Arguments: the server's URL, an API key, a folder for what is downloaded, and
the pictures to train on. Writes what it saw to stdout, as JSON.
"""
# pyright: reportMissingImports=false

import base64
import json
import sys
import time
from pathlib import Path

import requests
from novita_client import NovitaClient, Txt2ImgV3LoRA
from novita_client.proto import QueryTrainingSubjectStatusResponse, TrainingComponent, V3TaskResponse

PATIENCE = 900.0
NAME, BASE, SIDE = "python-client", "maquette-tiny", 128
RESIZE = TrainingComponent(
    name="resize", args=[{"name": "height", "value": str(SIDE)}, {"name": "width", "value": str(SIDE)}]
)


def main(url: str, key: str, folder: Path, pictures: list[str]) -> dict[str, object]:
    client = NovitaClient(key, url)
    task_id = train(client, pictures)
    status = wait(client, task_id)
    (model,) = status.models
    row = client.list_training(task_type="subject").filter_by_task_status("SUCCESS").get_by_task_name(NAME)
    stem = model.model_name.removesuffix(".safetensors")
    draw(client, folder / "plain.jpeg")
    draw(client, folder / "named.jpeg", model.model_name)
    draw(client, folder / "stem.jpeg", stem)
    draw_from(client, folder / "plain.jpeg", folder / "from_picture.jpeg")
    found = client.models_v3(refresh=True).filter_by_visibility("private").get_by_sd_name(model.model_name)
    queried = client.query_model_v3(visibility="private", source="training", types="lora", cursor="0", limit="100")
    (folder / "lora.safetensors").write_bytes(requests.get(found.download_url, timeout=60).content)
    return {
        "model_name": model.model_name,
        "listed": [row.task_id == task_id, row.task_type, [one.model_name for one in row.models]],
        "found": [found.name, found.type.name, found.sd_name_in_api, found.source, found.status.value],
        "queried": [one.sd_name for one in queried.models],
        "bases": [one.sd_name for one in client.models_v3().filter_by_type("checkpoint")],
        "balance": client.user_info().credit_balance,
    }


def train(client: NovitaClient, pictures: list[str]) -> str:
    return client.create_training_subject(
        NAME,
        BASE,
        pictures,
        instance_prompt="ohwx creature",
        class_prompt="creature",
        width=SIDE,
        height=SIDE,
        learning_rate="1e-3",
        seed=7,
        lora_r=4,
        max_train_steps=60,
        components=[RESIZE],
    )


def wait(client: NovitaClient, task_id: str) -> QueryTrainingSubjectStatusResponse:
    """Poll until the training has ended; as many clients do, go by the task's status alone."""
    deadline = time.monotonic() + PATIENCE
    while (status := client.query_training_subject_status(task_id)).task_status in {"QUEUING", "TRAINING"}:
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert status.task_status == "SUCCESS", status
    return status


def draw(client: NovitaClient, path: Path, lora: str | None = None) -> None:
    """Draw with the LoRA of this name, or with none."""
    result = client.txt2img_v3(
        BASE,
        "ohwx creature",
        image_num=1,
        width=SIDE,
        height=SIDE,
        steps=8,
        seed=5,
        guidance_scale=4,
        sampler_name="DDIM",
        loras=[Txt2ImgV3LoRA(model_name=lora, strength=1.0)] if lora else None,
    )
    save(result, path)


def draw_from(client: NovitaClient, original: Path, path: Path) -> None:
    save(client.img2img_v3(BASE, str(original), "a red circle", image_num=1, width=SIDE, height=SIDE, steps=4), path)


def save(result: V3TaskResponse, path: Path) -> None:
    (encoded,) = result.images_encoded
    path.write_bytes(base64.b64decode(encoded))


if __name__ == "__main__":
    _, url, key, folder, *pictures = sys.argv
    sys.stdout.write(json.dumps(main(url, key, Path(folder), pictures)))
