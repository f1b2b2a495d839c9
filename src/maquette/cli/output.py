"""How commands speak: results on stdout, everything else on stderr."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from maquette.client.client import Client
from maquette.client.records import Model
from maquette.core.errors import MaquetteError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)

Url = Annotated[str, typer.Option(envvar="MAQUETTE_URL", help="The server's address.")]
ApiKey = Annotated[str, typer.Option(envvar="MAQUETTE_API_KEY", help="Your API key.", show_envvar=True)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DataDir = Annotated[Path, typer.Option(envvar="MAQUETTE_DATA_DIR", help="Where the server keeps everything.")]

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_DATA_DIR = Path("maquette-data")

STATUS_STYLES = {
    "QUEUING": "yellow",
    "TRAINING": "cyan",
    "SUCCESS": "green",
    "FAILED": "red",
    "CANCELED": "dim",
}


def connect(url: str, api_key: str) -> Client:
    """A client, or an exit that says what is missing."""
    if not api_key:
        err.print("[red]no API key[/]: set MAQUETTE_API_KEY, or make one with `maquette keys create --tenant NAME`")
        raise typer.Exit(2)
    return Client(url, api_key)


def print_json(value: object) -> None:
    """Print a value as indented JSON, and nothing else, on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def fail(error: MaquetteError) -> None:
    """Print an error's words and its stable reason on stderr."""
    err.print(f"[red]{error.reason}[/] {escape(error.message)}")


def status(text: str) -> str:
    """A status in its colour."""
    return f"[{STATUS_STYLES.get(text, 'magenta')}]{text}[/]"


def instant(seconds: float) -> str:
    """Unix seconds as local date and time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def model_names(models: list[Model]) -> str:
    """Names and statuses of a task's models in a few words."""
    return ", ".join(f"{model.model_name} ({model.model_status})" for model in models)
