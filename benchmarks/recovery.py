"""How long until a killed trainer is noticed, and until its task trains again?

    python benchmarks/recovery.py

Starts a server of its own, trains on the bundled base, and kills the trainer (SIGKILL to its process group) again and
again, each time after a new checkpoint. Noticed is when the database says that the task is queued again; both clocks
are this machine's.
"""

import json
import os
import signal
import statistics
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

from machine import machine
from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.core.rundir import ProcessRecord, RunDirectory
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType

KILLS = 4
"""One less than the attempts a lost worker is allowed."""
CHECKPOINT_EVERY = 5
RESULT = Path(__file__).parent / "results" / "recovery.json"


def main() -> None:
    """Measure, print, and write the figures with the machine's description."""
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data", {"MAQUETTE_CHECKPOINT_EVERY": str(CHECKPOINT_EVERY)})
        with server, Client(server.url, server.command("keys", "create", "--tenant", "bench")) as client:
            task_id = start(client)
            kills = [kill(server, client, task_id, fence) for fence in range(1, KILLS + 1)]
            *_, task = client.follow(task_id)
            events = list(client.events(task_id))
    moves = [event for event in events if event["kind"] == "task"]
    queued = [move["created_at"] for move in moves if move["data"]["reason"] == "worker_lost"]
    resumed = [event for event in events if event["kind"] == "started" and event["data"]["resumed_from"] is not None]
    noticed = [at - killed for at, killed in zip(queued, kills, strict=True)]
    back = [event["created_at"] - killed for event, killed in zip(resumed, kills, strict=True)]
    figures = {
        "machine": machine("torch", "diffusers", "peft"),
        "ended": task.task_status,
        "noticed_seconds": noticed,
        "training_again_seconds": back,
    }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{KILLS} kills, task ended {task.task_status}")
    for name, seconds in (("noticed", noticed), ("training again", back)):
        shown = " ".join(f"{value:.2f}" for value in seconds)
        print(f"{name:<15} median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s   ({shown})")


def start(client: Client) -> str:
    """A training long enough to be killed several times."""
    with as_file(files("maquette") / "examples" / "pelu") as folder:
        items = [DatasetItem(client.upload(folder / f"0{number}.png")) for number in (1, 2, 3)]
    return client.create_training(
        TaskType.SUBJECT,
        name="recovery",
        base_model="maquette-tiny",
        width=128,
        height=128,
        items=items,
        expert_setting=ExpertSetting(max_train_steps=400, seed=7, lora_r=4),
    )


def kill(server: ServerProcess, client: Client, task_id: str, fence: int) -> float:
    """Kill the trainer of an attempt once it has a checkpoint of its own; answers when, in Unix seconds."""
    run = RunDirectory(server.data_dir / "runs" / task_id / str(fence))
    while not any(run.checkpoints.glob("step-*")) or not own_checkpoint_told(client, task_id, fence):
        time.sleep(0.1)
    record = run.read(run.process, ProcessRecord)
    assert record is not None
    os.killpg(record.pid, signal.SIGKILL)
    return time.time()


def own_checkpoint_told(client: Client, task_id: str, fence: int) -> bool:
    """Whether the task's history has a checkpoint after the attempt's start."""
    kinds = [event["kind"] for event in client.events(task_id)]
    starts = [index for index, kind in enumerate(kinds) if kind == "started"]
    return len(starts) == fence and "checkpoint" in kinds[starts[-1] :]


if __name__ == "__main__":
    main()
