"""Progress bars for uploads, trainings and pictures, and above them what there is to know."""

from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from maquette.cli.history import News
from maquette.cli.output import LABEL_WIDTH, err, tell
from maquette.client.client import Client
from maquette.client.records import ImageTask, Status, TaskDetail


def progress_bar() -> Progress:
    """A bar on stderr, so that stdout holds results only."""
    return Progress(
        TextColumn(f"{{task.description:<{LABEL_WIDTH}}}"),
        BarColumn(bar_width=15),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # The one that gives way in a narrow terminal.
        TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=err,
        expand=True,
    )


def follow_with_bar(client: Client, task_id: str, names: Sequence[str] = ()) -> TaskDetail:
    """Follow a task to its end, and tell its news; answers its last state.

    `names` are those of its pictures by which their owner knows them, where they are at hand.
    """
    last: TaskDetail | None = None
    news = News(client, names)
    with progress_bar() as progress:
        bar = progress.add_task("training", total=None, note="")
        for task in client.follow(task_id):
            progress.update(bar, completed=task.step, total=task.total_steps, note=_note(task))
            for told in news.of(task):
                tell(told.label, told.words)
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
    """How a task's last steps went; where it takes none, why."""
    if task.metrics and task.task_status in {Status.TRAINING, Status.SUCCESS}:
        return f"loss {task.metrics.loss_average:.3g}, {task.metrics.steps_per_second:.2g} steps/s"
    return task.task_status.lower()
