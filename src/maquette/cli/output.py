"""How commands speak: results on stdout, everything else on stderr.

Data is shown as it is. Neither console reads markup or emoji codes in what it prints; whoever wants a style says so
with a `Text`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from maquette.client.client import Client
from maquette.client.records import Model, Status
from maquette.core.weights import LoraLayout

out = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
err = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

Url = Annotated[str, typer.Option(envvar="MAQUETTE_URL", help="The server's address.")]
ApiKey = Annotated[str, typer.Option(envvar="MAQUETTE_API_KEY", help="Your API key.", show_envvar=True)]
Output = Annotated[Path, typer.Option(help="Folder for the LoRA file.")]
Layout = Annotated[LoraLayout, typer.Option(help="Of the LoRA file; kohya's is for ComfyUI and the web interfaces.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataDir = Annotated[Path, typer.Option(envvar="MAQUETTE_DATA_DIR", help="Where the server keeps everything.")]

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_DATA_DIR = Path("maquette-data")
COLUMN_GAP = "  "
LABEL_WIDTH = 10
"""Of bars, and of what is told between them."""

STATUS_STYLES = {
    Status.QUEUING: "yellow",
    Status.TRAINING: "cyan",
    Status.SUCCESS: "green",
    Status.FAILED: "red",
    Status.CANCELED: "dim",
    Status.UNKNOWN: "magenta",
}
LABEL_STYLES = {"error": "red", "warning": "yellow", "went back": "yellow", "dropped": "yellow"}


class CommandFailed(Exception):
    """A command can't do what it was asked to; the words are for whoever ran it."""


def connect(url: str, api_key: str) -> Client:
    """A client, or an exit that says what is missing."""
    if not api_key:
        fail("error", "no API key: set MAQUETTE_API_KEY, or make one with `maquette keys create --tenant NAME`")
        raise typer.Exit(2)
    return Client(url, api_key, on_wait=err.print)


def print_json(value: object) -> None:
    """Print a value as indented JSON, and nothing else, on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_result(words: str, record: Mapping[str, Any] | None) -> None:
    """Print what came out: the record where JSON is asked for, else one line."""
    if record is None:
        out.print(words)
    else:
        print_json(record)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print rows under their header."""
    print_rows([[Text(name, "bold") for name in header], *rows])


def print_rows(rows: Iterable[Sequence[str | Text]]) -> None:
    """Print rows in columns as wide as their cells, however narrow the terminal: an id that is cut is of no use."""
    lines = [[_cell(value) for value in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    for *cells, last in lines:
        for cell, width in zip(cells, widths, strict=False):
            cell.pad_right(width - cell.cell_len)
        out.print(Text(COLUMN_GAP).join([*cells, last]))


def tell(kind: str, words: str) -> None:
    """Print on stderr what goes on: in a terminal wrapped beside its kind, elsewhere on one line."""
    margin, text = label(kind), _cell(words)
    margin.pad_right(LABEL_WIDTH + 1 - margin.cell_len)
    lines = text.wrap(err, max(1, err.width - margin.cell_len)) if err.is_terminal else [text]
    for line in lines:
        err.print(Text.assemble(margin, line))
        margin = Text(" " * margin.cell_len)


def fail(reason: str, words: str) -> None:
    """Print on stderr why a command failed."""
    err.print(Text.assemble((reason, "red"), " ", words))


def status(value: Status) -> Text:
    """A status in its colour."""
    return Text(value, STATUS_STYLES[value])


def label(name: str) -> Text:
    """The label of a line that tells something, in its colour."""
    return Text(name, LABEL_STYLES.get(name, ""))


def instant(seconds: float) -> str:
    """Unix seconds as local date and time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def model_names(models: list[Model]) -> str:
    """Names and statuses of a task's models in a few words."""
    return ", ".join(f"{model.model_name} ({model.model_status})" for model in models)


def _cell(value: str | Text) -> Text:
    """One line of a terminal, whatever characters are in it."""
    text = value if isinstance(value, Text) else Text(value)
    return Text("".join(char if char.isprintable() else repr(char)[1:-1] for char in text.plain), text.style)
