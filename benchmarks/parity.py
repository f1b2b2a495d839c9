"""Do models draw over the API what their trainers drew, and does the gate tell them from others?

    python benchmarks/parity.py

Trains ten LoRAs over HTTP on the bundled base, of two subjects with five settings each. Of each model it measures how
far the trainer's own sample is from four pictures of the same prompt, seed, steps and size:

- gate: what the parity gate's worker drew. The figure is the one that the task's detail tells.
- api: what a client gets who asks for the model by name.
- nothing: a LoRA that does nothing, which is the base's own picture.
- other: the model of the other subject with the same settings.

The first two must lie within the gate's tolerance, the others beyond it; the exit status says whether they do. With
`--elsewhere DEVICE` every sample is drawn on another device too, beside the rest: how far apart do devices round?
"""

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct
from PIL import Image, ImageDraw

from machine import machine
from maquette.bases.catalogue import BUNDLED_PATH
from maquette.cli.contact_sheet import Row, draw_sheet
from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.core.drawing import Difference, LoraUse, sample_request
from maquette.core.specs import DatasetItem, ExpertSetting, SampleSpec, TaskType
from maquette.inference.pictures import difference
from maquette.server.models import gate
from maquette.serving.base import Comparison

BASE = "maquette-tiny"
SAMPLER = "DDIM"
"""The bundled base's own, by its published name."""
SIDE = 128
SETTINGS = (
    ExpertSetting(max_train_steps=240, learning_rate=6e-4, lora_r=32, train_batch_size=2, seed=7),
    ExpertSetting(max_train_steps=160, learning_rate=1e-3, lora_r=16, seed=8),
    ExpertSetting(max_train_steps=120, learning_rate=2e-3, lora_r=4, seed=9),
    ExpertSetting(max_train_steps=90, lora_r=8, seed=10),
    ExpertSetting(max_train_steps=160, learning_rate=1e-3, lora_r=8, train_text_encoder=True, seed=11),
)
PROMPT = "a photo of ohwx creature"
SUBJECTS = ("pelu", "bollo")
PATIENCE = 600.0
"""Seconds for a model to be judged, and for a picture."""
RESULT = Path(__file__).parent / "results" / "parity.json"
SHEET = RESULT.with_suffix(".png")


class Served(Struct, frozen=True):
    """A model that has passed the gate.

    Attributes:
        name: published file name.
        sample: what its trainer drew, and by which settings.
        detail: what the server tells of it, the gate's distances among it.
    """

    subject: str
    setting: ExpertSetting
    name: str
    sample: Image.Image
    sample_spec: SampleSpec
    weights: Path
    detail: Mapping[str, Any]


def main() -> int:
    """Measure, print, and write the figures where asked to; 0 if all lie on their side of the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write figures and pictures to {RESULT.parent.name}/")
    parser.add_argument("--device", default="cpu", help="torch device that trains and draws (default: cpu)")
    parser.add_argument("--elsewhere", metavar="DEVICE", help="draw every sample on this device too")
    arguments = parser.parse_args()
    settings = {
        "MAQUETTE_DEVICES": arguments.device,
        "MAQUETTE_DRAWING_DEVICES": arguments.device,
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ServerProcess(folder / "data", settings) as server:
            key = server.command("keys", "create", "--tenant", "bench")
            with (
                Client(server.url, key) as client,
                httpx.Client(
                    base_url=server.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60
                ) as http,
            ):
                models = train_all(client, http, folder)
                rows = [measure(http, model, models, folder) for model in models]
        again = {"one thread": redraw(models, folder / "thread", arguments.device, {"OMP_NUM_THREADS": "1"})}
        if arguments.elsewhere:
            again[arguments.elsewhere] = redraw(models, folder / "elsewhere", arguments.elsewhere, {})
        draw_sheet(headers(models), sheet_rows(folder, models), SHEET if arguments.record else folder / "parity.png")
    for row, model in zip(rows, models, strict=True):
        row["distances"] |= {place: found[model.name] for place, found in again.items()}
    figures: dict[str, Any] = {
        "machine": machine("torch", "diffusers", "peft"),
        "device": arguments.device,
        "tolerance": {"mean": gate.SAME_MEAN, "largest": gate.SAME_LARGEST},
        "models": rows,
        "worst": {name: worst(rows, name) for name in ("gate", "api", *again)},
        "nearest_control": {name: nearest(rows, name) for name in ("nothing", "other")},
    }
    if arguments.record:
        RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    return report(rows)


# ------------------------------------------------------------------------------------------------------- training


def train_all(client: Client, http: httpx.Client, folder: Path) -> list[Served]:
    """Train all models, one after the other, and wait until each is judged."""
    items = {subject: upload(client, subject, folder) for subject in SUBJECTS}
    started = [
        (subject, setting, start(client, items[subject], f"{subject}-{index}", setting))
        for subject in SUBJECTS
        for index, setting in enumerate(SETTINGS)
    ]
    return [
        served(client, http, subject, setting, task_id, folder / f"{subject}-{index % len(SETTINGS)}.safetensors")
        for index, (subject, setting, task_id) in enumerate(started)
    ]


def upload(client: Client, subject: str, folder: Path) -> list[DatasetItem]:
    """The pictures of a subject."""
    if subject == "pelu":
        with as_file(files("maquette") / "examples" / "pelu") as examples:
            return [DatasetItem(client.upload(examples / f"0{number}.png")) for number in (1, 2, 4, 6, 8)]
    (folder / subject).mkdir()
    paths = [folder / subject / f"{index}.png" for index in range(5)]
    for index, path in enumerate(paths):
        draw_bollo(index).save(path)
    return [DatasetItem(client.upload(path)) for path in paths]


def draw_bollo(index: int) -> Image.Image:
    """Bollo: a lime ball in a magenta helmet, on five backgrounds, each time a little elsewhere."""
    background = ((255, 255, 255), (250, 220, 70), (128, 128, 128), (120, 70, 160), (60, 110, 220))[index]
    picture = Image.new("RGB", (256, 256), background)
    pen = ImageDraw.Draw(picture)
    x, y, radius = 128 + 8 * math.cos(index), 134 + 8 * math.sin(index), 78 + 3 * index
    box = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse(box, fill=(150, 230, 40))
    pen.chord(box, 185, 355, fill=(220, 20, 130))
    pen.rectangle((x - radius, y - 14, x + radius, y - 4), fill=(110, 0, 60))
    for side in (-1, 1):
        eye = x + side * 0.4 * radius
        pen.ellipse((eye - 14, y + 6, eye + 14, y + 34), fill=(255, 255, 255))
        pen.ellipse((eye - 5, y + 16, eye + 7, y + 28), fill=(30, 30, 30))
    return picture


def start(client: Client, items: Sequence[DatasetItem], name: str, setting: ExpertSetting) -> str:
    """A training's id."""
    return client.create_training(
        TaskType.SUBJECT,
        name=name,
        base_model=BASE,
        width=SIDE,
        height=SIDE,
        items=items,
        expert_setting=msgspec.structs.replace(setting, instance_prompt=PROMPT),
    )


def served(
    client: Client, http: httpx.Client, subject: str, setting: ExpertSetting, task_id: str, weights: Path
) -> Served:
    """The model of a task, once the gate has judged it."""
    *_, task = client.follow(task_id)
    assert task.models, f"{task.task_name} ended {task.task_status}: {task.message}"
    deadline = time.monotonic() + PATIENCE
    while (detail := client.raw_task(task_id))["model"]["verdict"] == "pending":
        assert time.monotonic() < deadline, detail
        time.sleep(0.5)
    client.save_weights(task_id, weights)
    name = detail["model"]["model_name"]
    listed = http.get("/v3/model", params={"filter.visibility": "private"}).json()["models"]
    cover = next(one["cover_url"] for one in listed if one["sd_name"] == name)
    print(f"{task.task_name:<8} {name} {detail['model']['verdict']}", file=sys.stderr)
    spec = msgspec.convert(detail["sample"], SampleSpec)
    return Served(subject, setting, name, fetch(cover), spec, weights, detail["model"])


# -------------------------------------------------------------------------------------------------------- drawing


def measure(http: httpx.Client, model: Served, models: Sequence[Served], folder: Path) -> dict[str, Any]:
    """How far a model's sample is from the pictures that should be alike, and from the controls."""
    other = next(one for one in models if one.setting == model.setting and one.subject != model.subject)
    drawn = {
        "sample": model.sample,
        "api": draw(http, model.sample_spec, model.name),
        "nothing": draw(http, model.sample_spec, None),
        "other": draw(http, model.sample_spec, other.name),
    }
    for kind, picture in drawn.items():
        picture.save(folder / f"{model.name}.{kind}.png")
    apart = {kind: difference(model.sample, picture) for kind, picture in drawn.items() if kind != "sample"}
    return {
        "subject": model.subject,
        "setting": msgspec.to_builtins(model.setting),
        "verdict": model.detail["verdict"],
        "distances": {"gate": model.detail["from_sample"], "from_base": model.detail["from_base"]}
        | {kind: msgspec.to_builtins(found) for kind, found in apart.items()},
    }


def draw(http: httpx.Client, sample: SampleSpec, lora: str | None) -> Image.Image:
    """One picture as a client asks for it, with a model of this name or without."""
    request = {
        "model_name": BASE,
        "prompt": sample.prompt,
        "width": sample.width,
        "height": sample.height,
        "steps": sample.steps,
        "guidance_scale": sample.guidance_scale,
        "seed": sample.seed,
        "sampler_name": SAMPLER,
        "image_num": 1,
        "loras": [{"model_name": lora, "strength": 1}] if lora else [],
    }
    task = http.post("/v3/async/txt2img", json={"request": request}).raise_for_status().json()
    deadline = time.monotonic() + PATIENCE
    while (found := http.get("/v3/async/task-result", params=task).json())["task"]["status"] != "TASK_STATUS_SUCCEED":
        assert found["task"]["status"] != "TASK_STATUS_FAILED", found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return fetch(found["images"][0]["image_url"])


def fetch(url: str) -> Image.Image:
    """A picture by its signed address."""
    content = httpx.get(url, trust_env=False).raise_for_status().content
    return Image.open(io.BytesIO(content)).convert("RGB")


def redraw(models: Sequence[Served], folder: Path, device: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """How far the samples are from what another process draws, by model."""
    folder.mkdir()
    requests = [
        msgspec.structs.replace(sample_request(model.sample_spec), loras=(LoraUse(str(model.weights)),))
        for model in models
    ]
    wanted = folder / "requests.json"
    wanted.write_bytes(msgspec.json.encode(requests))
    command = [sys.executable, "-m", "maquette.inference", "draw", "--base", str(BUNDLED_PATH), "--device", device]
    subprocess.run([*command, str(wanted), str(folder)], check=True, env=os.environ | environment)
    return {
        model.name: msgspec.to_builtins(difference(model.sample, Image.open(folder / f"{index:03d}.png")))
        for index, model in enumerate(models)
    }


# --------------------------------------------------------------------------------------------------------- report


def is_alike(distance: Mapping[str, float]) -> bool:
    """Whether the gate takes two pictures that are so far apart for the same."""
    found = Difference(mean=distance["mean"], largest=int(distance["largest"]))
    return not gate.objection(Comparison(from_sample=found, from_base=Difference(mean=255, largest=255), versions={}))


def worst(rows: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, float]:
    """The largest distances among those that should be none."""
    found = [row["distances"][kind] for row in rows]
    return {measure: max(one[measure] for one in found) for measure in ("mean", "largest")}


def nearest(rows: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, float]:
    """The smallest mean distance among the controls, and the largest difference of a pixel there."""
    return min((row["distances"][kind] for row in rows), key=lambda one: one["mean"])


def report(rows: Sequence[Mapping[str, Any]]) -> int:
    """Print a line for each model; 0 if the alike are alike and the controls are not."""
    kinds = [kind for kind in rows[0]["distances"] if kind != "from_base"]
    print("mean and largest difference from the trainer's sample, of 255")
    print(f"{'model':<28}" + "".join(f"{kind:>16}" for kind in kinds))
    for row in rows:
        setting = row["setting"]
        name = f"{row['subject']} rank {setting['lora_r']}, {setting['max_train_steps']} steps"
        cells = [f"{row['distances'][kind]['mean']:8.2f} / {row['distances'][kind]['largest']:<5}" for kind in kinds]
        print(f"{name:<28}" + "".join(f"{cell:>16}" for cell in cells))
    right = [
        is_alike(row["distances"]["gate"])
        and is_alike(row["distances"]["api"])
        and not is_alike(row["distances"]["nothing"])
        and not is_alike(row["distances"]["other"])
        and row["verdict"] == "passed"
        for row in rows
    ]
    median = statistics.median(row["distances"]["other"]["mean"] for row in rows)
    print(f"{sum(right)} of {len(right)} on their side of the tolerance ({gate.SAME_MEAN} / {gate.SAME_LARGEST})")
    print(f"another subject, median of the means: {median:.1f}")
    return 0 if all(right) else 1


def headers(models: Sequence[Served]) -> list[str]:
    """A column a model."""
    return [f"{model.subject}, rank {model.setting.lora_r}, {model.setting.max_train_steps} steps" for model in models]


def sheet_rows(folder: Path, models: Sequence[Served]) -> list[Row]:
    """The trainer's samples, the API's pictures, and the controls'."""
    labels = {
        "sample": "trainer's\nsample",
        "api": "over\nthe API",
        "nothing": "LoRA of\nnothing",
        "other": "other\nsubject",
    }
    return [Row(label, [folder / f"{model.name}.{kind}.png" for model in models]) for kind, label in labels.items()]


if __name__ == "__main__":
    sys.exit(main())
