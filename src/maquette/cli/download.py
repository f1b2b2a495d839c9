"""The progress bar of a download."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column

from maquette.cli.output import err


@contextmanager
def download_bar() -> Generator[Callable[[str, int, int], None]]:
    """A bar on stderr from the first call on, which says: which file, how many bytes by now, and how many in all.

    Where stderr is no terminal it is one line, when all is over.
    """
    bar = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=15),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # The one that gives way in a narrow terminal.
        TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=err,
        expand=True,
    )
    download = bar.add_task("download", total=None, note="")

    def progress(name: str, done: int, total: int) -> None:
        bar.update(download, completed=done, total=total, note=name)
        bar.start()

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()
