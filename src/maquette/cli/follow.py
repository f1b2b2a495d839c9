"""Progress bars for uploads, trainings and pictures."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from maquette.cli.output import err
from maquette.client.client import Client
from maquette.client.records import ImageTask, TaskDetail


def progress_bar() -> Progress:
    """A bar on stderr, so that stdout holds results only."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=err,
    )


def follow_with_bar(client: Client, task_id: str) -> TaskDetail:
    """Follow a task to its end; answers its last state."""
    last: TaskDetail | None = None
    with progress_bar() as progress:
        bar = progress.add_task("training", total=None, note="")
        for task in client.follow(task_id):
            progress.update(bar, completed=task.step, total=task.total_steps, note=_note(task))
            last = task
    assert last is not None, "following begins with the state that there is"
    return last


def follow_image_with_bar(client: Client, task_id: str) -> ImageTask:
    """Follow an image task to its end; answers its last state."""
    last: ImageTask | None = None
    with progress_bar() as progress:
        bar = progress.add_task("drawing", total=100, note="")
        for found in client.follow_image(task_id):
            note = found.task.status.removeprefix("TASK_STATUS_").lower()
            progress.update(bar, completed=found.task.progress_percent, note=note)
            last = found
    assert last is not None, "following begins with the state that there is"
    return last


def _note(task: TaskDetail) -> str:
    """Where a task stands in a few words: why, or how its last steps went."""
    words = task.task_status.lower()
    if task.message:
        return f"{words}: {task.message}"
    if task.metrics:
        return f"{words}, loss {task.metrics.loss_average:.3g}, {task.metrics.steps_per_second:.2g} steps/s"
    return words
