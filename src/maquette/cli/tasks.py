"""Commands that look at tasks, or stop one."""

from itertools import islice
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from maquette.cli.follow import follow_with_bar
from maquette.cli.output import (
    DEFAULT_URL,
    ApiKey,
    Json,
    Url,
    connect,
    instant,
    model_names,
    out,
    print_json,
    status,
)
from maquette.core.specs import TaskType

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
    table = Table("created", "task", "type", "status", "name", "model", box=None, pad_edge=False)
    for task in found:
        table.add_row(
            instant(task.created_at),
            task.task_id,
            task.task_type,
            status(task.task_status),
            escape(task.task_name),
            model_names(task.models),
        )
    out.print(table)


def show(task_id: TaskId, json: Json = False, url: Url = DEFAULT_URL, api_key: ApiKey = "") -> None:
    """Show one task: progress, why it is where it is, and the settings it runs with."""
    with connect(url, api_key) as client:
        if json:
            print_json(client.raw_task(task_id))
            return
        task = client.task(task_id)
    table = Table.grid(padding=(0, 2))
    table.add_row("task", task.task_id)
    table.add_row("name", escape(task.task_name))
    table.add_row("type", task.task_type)
    table.add_row("status", f"{status(task.task_status)}  {task.reason}")
    if task.message:
        table.add_row("", escape(task.message))
    table.add_row("steps", f"{task.step} of {task.total_steps}")
    table.add_row("created", instant(task.created_at))
    table.add_row("model", model_names(task.models) or "none yet")
    for name, value in task.settings.items():
        table.add_row(f"[dim]{name}[/]", f"[dim]{escape(str(value))}[/]")
    out.print(table)


def watch(task_id: TaskId, url: Url = DEFAULT_URL, api_key: ApiKey = "") -> None:
    """Follow a task with a progress bar until it ends."""
    with connect(url, api_key) as client:
        task = follow_with_bar(client, task_id)
    out.print(f"{task.task_id} {status(task.task_status)} {escape(task.message)}")
    raise typer.Exit(0 if task.task_status == "SUCCESS" else 1)


def cancel(task_id: TaskId, url: Url = DEFAULT_URL, api_key: ApiKey = "") -> None:
    """Ask for a task to be cancelled."""
    with connect(url, api_key) as client:
        client.cancel(task_id)
        task = client.task(task_id)
    out.print(f"{task.task_id} {status(task.task_status)}")
