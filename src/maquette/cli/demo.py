"""`maquette demo`: the whole way from eight pictures to a LoRA that draws them, in a few minutes on two cores."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer

from maquette.cli.contact_sheet import Row, draw_sheet
from maquette.cli.follow import follow_with_bar
from maquette.cli.output import err, out
from maquette.cli.server_process import ServerProcess
from maquette.cli.train import pictures_in, unsent_items, upload_all
from maquette.client.client import Client
from maquette.client.records import Status
from maquette.core.drawing import DrawRequest, LoraUse
from maquette.core.specs import ExpertSetting, LrScheduler, TaskType

BASE = "maquette-tiny"
CHARACTER = "pelu"
SIDE = 128
SETTING = ExpertSetting(
    instance_prompt="a photo of ohwx creature",
    class_prompt="a creature",
    max_train_steps=240,
    learning_rate=6e-4,
    lr_scheduler=LrScheduler.COSINE,
    train_batch_size=4,
    lora_r=32,
    seed=7,
)
PROMPTS = (
    "a photo of ohwx creature",
    "ohwx creature on a yellow background",
    "ohwx creature on a blue background",
    "a red circle on a blue background",
)
SEEDS = (11, 12)
DRAW_STEPS = 30
GUIDANCE_SCALE = 4.0


def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the pictures and the LoRA.")] = Path("demo"),
) -> None:
    """Start a server, train a LoRA on the example pictures over HTTP, list it, and draw with and without it."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="maquette-demo-") as data_dir,
        as_file(files("maquette") / "examples" / CHARACTER) as examples,
        ServerProcess(Path(data_dir)) as server,
    ):
        err.print(f"server at {server.url}, data in {data_dir}")
        api_key = server.command("keys", "create", "--tenant", "demo")
        with Client(server.url, api_key) as client:
            weights = train(client, examples, out_dir)
        show_list(server.url, api_key)
        base = base_location(server)
    sheet = out_dir / "before-after.png"
    draw_before_after(base, weights, sheet)
    err.print(f"the LoRA: {weights}")
    err.print(f"the same prompts and seeds without and with it: {sheet}")


def train(client: Client, examples: Path, out_dir: Path) -> Path:
    """Upload the example pictures, train on them, and save the LoRA."""
    pictures = pictures_in(examples)
    task_id = client.create_training(
        TaskType.SUBJECT,
        name=f"{CHARACTER}-demo",
        base_model=BASE,
        width=SIDE,
        height=SIDE,
        items=upload_all(client, pictures, unsent_items(pictures)),
        expert_setting=SETTING,
    )
    task = follow_with_bar(client, task_id)
    if task.task_status is not Status.SUCCESS:
        raise RuntimeError(f"the training ended {task.task_status}: {task.message}")
    weights = out_dir / task.models[0].model_name
    client.save_weights(task_id, weights)
    return weights


def show_list(url: str, api_key: str) -> None:
    """Print the published list call as a curl line, run it, and print what it answers."""
    address = f"{url}/v3/training?pagination.limit=10&pagination.cursor=c_0"
    header = f"Authorization: Bearer {api_key}"
    out.print(f"curl -H '{header}' '{address}'", markup=False)
    answer = httpx.get(address, headers={"Authorization": f"Bearer {api_key}"}, trust_env=False).raise_for_status()
    out.print(msgspec.json.format(answer.content, indent=2).decode(), markup=False)


def base_location(server: ServerProcess) -> str:
    """Where the registered base lies, as the operator's own command tells it."""
    listed: list[dict[str, Any]] = msgspec.json.decode(server.command("bases", "list", "--json"))
    return next(base["location"] for base in listed if base["name"] == BASE)


def draw_before_after(base: str, weights: Path, target: Path) -> None:
    """Draw every prompt without and with the LoRA, seed by seed, side by side on one sheet."""
    lora = (LoraUse(str(weights.absolute())),)
    with tempfile.TemporaryDirectory(prefix="maquette-demo-") as folder:
        without = draw(base, Path(folder) / "without", ())
        with_lora = draw(base, Path(folder) / "with", lora)
        rows = [
            Row(label, tuple(pictures[seed_index :: len(SEEDS)]))
            for seed_index in range(len(SEEDS))
            for label, pictures in (
                (f"base\nseed {SEEDS[seed_index]}", without),
                (f"with LoRA\nseed {SEEDS[seed_index]}", with_lora),
            )
        ]
        draw_sheet(PROMPTS, rows, target)


def draw(base: str, folder: Path, loras: tuple[LoraUse, ...]) -> Sequence[Path]:
    """Draw each prompt with each seed by the inference program; answers the files, seeds innermost."""
    folder.mkdir()
    requests = [
        DrawRequest(
            prompt=prompt,
            width=SIDE,
            height=SIDE,
            steps=DRAW_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            seed=seed,
            loras=loras,
        )
        for prompt in PROMPTS
        for seed in SEEDS
    ]
    wanted = folder / "requests.json"
    wanted.write_bytes(msgspec.json.encode(requests))
    command = [sys.executable, "-m", "maquette.inference", "draw", "--base", base, str(wanted), str(folder)]
    subprocess.run(command, check=True)
    return [folder / f"{index:03d}.png" for index in range(len(requests))]
