"""`maquette demo`: the whole way from eight pictures to a LoRA that draws them, in a few minutes on two cores."""

import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer

from maquette.cli.contact_sheet import Row, draw_sheet
from maquette.cli.dataset import pictures_in, unsent_items, upload_all
from maquette.cli.follow import follow_with_bar, progress_bar
from maquette.cli.generate import save_pictures
from maquette.cli.output import err, out
from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.client.records import DrawingStatus, ImageTask, Status, TaskDetail
from maquette.core.drawing import Sampler
from maquette.core.image_specs import LoraChoice, TextToImage
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
"""One task draws both: each further picture has the seed of the one before it plus 1."""
DRAW_STEPS = 30
GUIDANCE_SCALE = 4.0
SAMPLER = Sampler.DDIM


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
            task = serve(client, train(client, examples))
            lora = task.models[0].model_name
            client.save_weights(task.task_id, out_dir / lora)
            show_list(server.url, api_key)
            sheet = out_dir / "before-after.png"
            draw_before_after(client, lora, sheet)
    err.print(f"the LoRA: {out_dir / lora}")
    err.print(f"the same prompts and seeds without and with it: {sheet}")


def train(client: Client, examples: Path) -> str:
    """Upload the example pictures and train on them; answers the task's id."""
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
    task = follow_with_bar(client, task_id, [picture.name for picture in pictures])
    if task.task_status is not Status.SUCCESS:
        raise RuntimeError(f"the training ended {task.task_status}: {task.message}")
    return task_id


def serve(client: Client, task_id: str) -> TaskDetail:
    """Wait until the LoRA draws as it was trained to; answers its task."""
    err.print("a worker draws the trainer's own sample again, and compares")
    *_, task = client.follow_model(task_id)
    if not task.served:
        raise RuntimeError(f"the LoRA is not served: {task.model}")
    return task


def show_list(url: str, api_key: str) -> None:
    """Print the published list call as a curl line, run it, and print what it answers."""
    address = f"{url}/v3/training?pagination.limit=10&pagination.cursor=c_0"
    header = f"Authorization: Bearer {api_key}"
    out.print(f"curl -H '{header}' '{address}'", markup=False)
    answer = httpx.get(address, headers={"Authorization": f"Bearer {api_key}"}, trust_env=False).raise_for_status()
    out.print(msgspec.json.format(answer.content, indent=2).decode(), markup=False)


def draw_before_after(client: Client, lora: str, target: Path) -> None:
    """Draw every prompt without and with the LoRA, seed by seed, side by side on one sheet."""
    with tempfile.TemporaryDirectory(prefix="maquette-demo-") as folder:
        without, with_lora = draw_all(client, ((), (LoraChoice(model_name=lora, strength=1.0),)), Path(folder))
        rows = [
            Row(f"{label}\nseed {seed}", [of_prompt[number] for of_prompt in pictures])
            for number, seed in enumerate(SEEDS)
            for label, pictures in (("base", without), ("with LoRA", with_lora))
        ]
        draw_sheet(PROMPTS, rows, target)


def draw_all(client: Client, choices: Sequence[Sequence[LoraChoice]], folder: Path) -> list[list[list[Path]]]:
    """Draw each prompt with each choice of LoRAs; answers the files, by choice, prompt and seed."""
    asked = [[client.text_to_image(_request(prompt, loras)) for prompt in PROMPTS] for loras in choices]
    with progress_bar() as progress:
        bar = progress.add_task("draw", total=len(choices) * len(PROMPTS), note="")
        drawn: list[list[list[Path]]] = []
        for tasks in asked:
            drawn.append([])
            for task_id in tasks:
                drawn[-1].append(save_pictures(client, wait_for(client, task_id), folder))
                progress.advance(bar)
    return drawn


def wait_for(client: Client, task_id: str) -> ImageTask:
    """Wait until an image task has its pictures."""
    *_, found = client.follow_image(task_id)
    if found.task.status is not DrawingStatus.SUCCEED:
        raise RuntimeError(f"drawing ended {found.task.status}: {found.task.reason}")
    return found


def _request(prompt: str, loras: Sequence[LoraChoice]) -> TextToImage:
    return TextToImage(
        model_name=BASE,
        prompt=prompt,
        width=SIDE,
        height=SIDE,
        image_num=len(SEEDS),
        steps=DRAW_STEPS,
        guidance_scale=GUIDANCE_SCALE,
        sampler_name=SAMPLER,
        seed=SEEDS[0],
        loras=list(loras),
    )
