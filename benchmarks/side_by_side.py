"""How much longer does a picture take while a training runs on the same machine?

    python benchmarks/side_by_side.py

Starts a server of its own on the bundled base and asks for pictures of 20 steps over HTTP, one after the other: some
alone, as many while a training runs, and some alone again, so that a machine that grows slower in between shows. A time
is from the request to the answer that says the picture is there. The bar is on the 95th percentiles; the exit status
says whether it was met.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import httpx

from machine import machine
from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType

PICTURE = {"model_name": "maquette-tiny", "prompt": "a red circle", "width": 256, "height": 256, "steps": 20, "seed": 1}
SETTING = ExpertSetting(max_train_steps=10000, seed=7, lora_r=16)
"""Longer than it takes to draw all pictures; it is cancelled then."""
BAR = 3.0
POLL = 0.02
PATIENCE = 300.0
RESULT = Path(__file__).parent / "results" / "side_by_side.json"


def main() -> int:
    """Measure, print, and write the figures where asked to; 0 if the bar was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RESULT.parent.name}/")
    parser.add_argument("--pictures", type=int, default=40, help="beside a training, and alone (default: 40)")
    parser.add_argument("--device", default="cpu", help="torch device that trains and draws (default: cpu)")
    arguments = parser.parse_args()
    settings = {"MAQUETTE_DEVICES": arguments.device, "MAQUETTE_DRAWING_DEVICES": arguments.device}
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder) / "data", settings) as server:
        key = server.command("keys", "create", "--tenant", "bench")
        headers = {"Authorization": f"Bearer {key}"}
        with (
            Client(server.url, key) as client,
            httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60) as http,
        ):
            times, trained = measure(client, http, arguments.pictures)
    alone, beside = times["alone"] + times["alone again"], times["beside a training"]
    ratio = percentile_95(beside) / percentile_95(alone)
    figures: dict[str, Any] = {
        "machine": machine("torch", "diffusers", "peft"),
        "device": arguments.device,
        "training_steps_meanwhile": trained,
        "seconds": {name: summary(found) for name, found in times.items()},
        "p95_ratio": ratio,
    }
    if arguments.record:
        RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    for name, found in figures["seconds"].items():
        print(f"{name:<18} median {found['median']:6.2f} s   p95 {found['p95']:6.2f} s   of {found['pictures']}")
    print(f"p95 beside a training over p95 alone: {ratio:.2f} (bar {BAR}); it did {trained} steps meanwhile")
    return 0 if ratio <= BAR and trained > 0 else 1


def measure(client: Client, http: httpx.Client, pictures: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of each picture, by what ran beside it, and how many steps the training did meanwhile."""
    draw(http)
    times = {"alone": [draw(http) for _ in range(pictures // 2)]}
    task_id = start(client)
    first = wait_for_step(client, task_id)
    times["beside a training"] = [draw(http) for _ in range(pictures)]
    task = client.task(task_id)
    assert not task.ended, f"the training ended too early: {task.task_status} {task.message}"
    client.cancel(task_id)
    for _ in client.follow(task_id):
        pass
    times["alone again"] = [draw(http) for _ in range(pictures // 2)]
    return times, task.step - first


def start(client: Client) -> str:
    """A training's id."""
    with as_file(files("maquette") / "examples" / "pelu") as folder:
        items = [DatasetItem(client.upload(folder / f"0{number}.png")) for number in (1, 2, 3)]
    return client.create_training(
        TaskType.SUBJECT,
        name="beside",
        base_model="maquette-tiny",
        width=256,
        height=256,
        items=items,
        expert_setting=SETTING,
    )


def wait_for_step(client: Client, task_id: str) -> int:
    """The step that a training is at, once it trains."""
    deadline = time.monotonic() + PATIENCE
    while (task := client.task(task_id)).step == 0:
        assert not task.ended, f"{task.task_status} {task.message}"
        assert time.monotonic() < deadline, "the training does not begin"
        time.sleep(0.2)
    return task.step


def draw(http: httpx.Client) -> float:
    """Seconds until one picture is there."""
    began = time.perf_counter()
    task = http.post("/v3/async/txt2img", json={"request": PICTURE}).raise_for_status().json()
    while (status := result(http, task)["task"]["status"]) != "TASK_STATUS_SUCCEED":
        assert status != "TASK_STATUS_FAILED", result(http, task)
        assert time.perf_counter() - began < PATIENCE, "no picture"
        time.sleep(POLL)
    return time.perf_counter() - began


def result(http: httpx.Client, task: Mapping[str, str]) -> dict[str, Any]:
    """The published answer about an image task."""
    return http.get("/v3/async/task-result", params=task).raise_for_status().json()


def percentile_95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def summary(values: Sequence[float]) -> dict[str, float]:
    """What is told of many times."""
    return {"pictures": len(values), "median": statistics.median(values), "p95": percentile_95(values)}


if __name__ == "__main__":
    sys.exit(main())
