"""Commands that look at tasks, or stop one."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich import filesize
from rich.text import Text

from maquette.cli.dataset import names_in
from maquette.cli.follow import follow_with_bar
from maquette.cli.history import News, called, in_full, told_of
from maquette.cli.output import (
    DEFAULT_URL,
    ApiKey,
    Json,
    Layout,
    Output,
    Url,
    connect,
    instant,
    label,
    model_names,
    out,
    print_json,
    print_rows,
    print_table,
    status,
)
from maquette.client.client import Client
from maquette.client.records import Status, TaskDetail
from maquette.core.errors import ErrorReason, InvalidRequest, MaquetteError
from maquette.core.metrics import MAX_POINTS
from maquette.core.specs import TaskType
from maquette.core.weights import LoraLayout

Folders = Annotated[
    list[Path] | None,
    typer.Option(
        "--pictures",
        exists=True,
        file_okay=False,
        help="Folder that was trained on, to tell of its pictures by their names; may come several times.",
    ),
]
TaskId = Annotated[str, typer.Argument(help="A task's id, as `maquette list` shows it.")]


def list_tasks(
    task_type: Annotated[TaskType | None, typer.Option("--type", help="Only tasks of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """List training tasks, newest first."""
    with connect(url, api_key) as client:
        found = list(islice(client.tasks(task_type), limit))
    if json:
        print_json(found)
        return
    print_table(
        ("task", "created", "type", "status", "model", "name"),
        (
            (
                task.task_id,
                instant(task.created_at),
                task.task_type,
                status(task.task_status),
                model_names(task.models),
                task.task_name,
            )
            for task in found
        ),
    )


def show(
    task_id: TaskId, pictures: Folders = None, json: Json = False, url: Url = DEFAULT_URL, api_key: ApiKey = ""
) -> None:
    """Show one task: progress, why it is where it is, what was found, and the settings it runs with."""
    with connect(url, api_key) as client:
        if json:
            print_json(client.raw_task(task_id))
            return
        task = client.task(task_id)
        names = names_in(pictures or (), task)
        news = News(client, names).of(task)
    print_rows(
        [
            ("task", task.task_id),
            ("name", task.task_name),
            ("type", task.task_type),
            ("status", status(task.task_status)),
            ("reason", f"{task.reason}: {called(task.message, task, names)}" if task.message else task.reason),
            ("steps", f"{task.step} of {task.total_steps}"),
            *_measured(task),
            ("created", instant(task.created_at)),
            ("model", model_names(task.models) or "none yet"),
            *((label(told.label), told.words) for told in news),
            *((Text(name, "dim"), Text(str(value), "dim")) for name, value in task.settings.items()),
        ]
    )


def _measured(task: TaskDetail) -> list[tuple[str, str]]:
    """Rows about a task's last steps, where it has taken one."""
    point = task.metrics
    return [("loss", f"{point.loss_average:.4g}"), ("pace", f"{point.steps_per_second:.3g} steps/s")] if point else []


def metrics(
    task_id: TaskId,
    points: Annotated[int, typer.Option(min=1, max=MAX_POINTS, help="How many lines at most.")] = 20,
    json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Show how a training goes: loss, its moving average, rate, gradient, pace and memory."""
    with connect(url, api_key) as client:
        curve = client.metrics(task_id, points=points)
    if json:
        print_json(curve)
        return
    print_table(
        ("step", "loss", "average", "rate", "gradient", "steps/s", "memory"),
        (
            (
                str(point.step),
                f"{point.loss:.4g}",
                f"{point.loss_average:.4g}",
                f"{point.lr:.3g}",
                f"{point.grad_norm:.3g}",
                f"{point.steps_per_second:.3g}",
                filesize.decimal(point.peak_bytes),
            )
            for point in curve.points
        ),
    )
    if curve.validation:
        print_table(("step", "held out"), ((str(point.step), f"{point.loss:.4g}") for point in curve.validation))


def events(
    task_id: TaskId, pictures: Folders = None, json: Json = False, url: Url = DEFAULT_URL, api_key: ApiKey = ""
) -> None:
    """Show everything that happened to a task, oldest first."""
    with connect(url, api_key) as client:
        found = list(client.events(task_id))
        task = client.task(task_id)
    if json:
        print_json(found)
        return
    names = names_in(pictures or (), task)
    told = ((event, told_of(event)) for event in found)
    print_table(
        ("when", "what", "told"),
        ((instant(event["created_at"]), label(line.label), in_full(line, task, names)) for event, line in told),
    )


def watch(
    task_id: TaskId, pictures: Folders = None, json: Json = False, url: Url = DEFAULT_URL, api_key: ApiKey = ""
) -> None:
    """Follow a task with a progress bar until it ends."""
    with connect(url, api_key) as client:
        names = names_in(pictures, client.task(task_id)) if pictures else []
        task = follow_with_bar(client, task_id, names)
        if json:
            print_json(client.raw_task(task_id))
    if not json:
        out.print(Text.assemble(f"{task.task_id} ", status(task.task_status), f" {called(task.message, task, names)}"))
    raise typer.Exit(0 if task.task_status is Status.SUCCESS else 1)


def checkpoints(task_id: TaskId, json: Json = False, url: Url = DEFAULT_URL, api_key: ApiKey = "") -> None:
    """List the checkpoints of a training that are kept, oldest first."""
    with connect(url, api_key) as client:
        found = client.checkpoints(task_id)
    if json:
        print_json(found)
        return
    print_table(
        ("step", "taken", "size", "samples"),
        ((str(one.step), instant(one.created_at), filesize.decimal(one.size), str(one.samples)) for one in found),
    )


def download(
    task_id: TaskId,
    output: Output = Path(),
    layout: Layout = LoraLayout.DIFFUSERS,
    step: Annotated[
        int | None,
        typer.Option(min=1, help="A checkpoint's LoRA instead, and what was drawn with it; `maquette checkpoints`."),
    ] = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Save the LoRA of a task that has succeeded, under its published name, or one of its checkpoints."""
    if step and layout is not LoraLayout.DIFFUSERS:
        raise InvalidRequest("layout", f"checkpoints are in {LoraLayout.DIFFUSERS} layout alone; leave out --layout")
    output.mkdir(parents=True, exist_ok=True)
    with connect(url, api_key) as client:
        if step:
            lora, *samples = save_checkpoint(client, task_id, step, output)
        else:
            lora, samples = save_lora(client, task_id, layout, output), []
    if json:
        print_json({"file": str(lora), "samples": [str(sample) for sample in samples]})
    else:
        out.print("\n".join(map(str, [lora, *samples])))


def save_lora(client: Client, task_id: str, layout: LoraLayout, folder: Path) -> Path:
    """Save the LoRA of a task that has succeeded; answers the file.

    Raises:
        MaquetteError: it has none.
    """
    task = client.task(task_id)
    if not task.models:
        raise MaquetteError(ErrorReason.CONFLICT, f"the task is {task.task_status} and has no LoRA")
    target = folder / task.models[0].model_name
    client.save_weights(task_id, target, layout=layout)
    return target


def save_checkpoint(client: Client, task_id: str, step: int, folder: Path) -> list[Path]:
    """Save a checkpoint's LoRA, and what was drawn with it; answers the files, the LoRA first.

    Raises:
        MaquetteError: no checkpoint of this step is kept.
    """
    kept = {checkpoint.step: checkpoint for checkpoint in client.checkpoints(task_id)}
    if step not in kept:
        steps = ", ".join(map(str, kept)) or "none"
        raise MaquetteError(ErrorReason.CHECKPOINT_NOT_FOUND, f"no checkpoint of step {step} is kept; kept are {steps}")
    files = [folder / f"{task_id}-step-{step}.safetensors"]
    client.save_checkpoint(task_id, step, files[0])
    for index in range(kept[step].samples):
        files.append(folder / f"{task_id}-step-{step}-{index}.png")
        client.save_sample(task_id, step, index, files[-1])
    return files


def cancel(task_id: TaskId, json: Json = False, url: Url = DEFAULT_URL, api_key: ApiKey = "") -> None:
    """Ask for a task to be cancelled."""
    with connect(url, api_key) as client:
        answer = client.cancel(task_id)
    if json:
        print_json(answer)
    else:
        out.print(Text.assemble(f"{answer.task_id} ", status(answer.task_status)))
