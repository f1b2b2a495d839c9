"""The operator's commands, which open the data directory itself."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.cli.output import DEFAULT_DATA_DIR, DataDir, Json, err, instant, out, print_json
from maquette.core.basefolder import BrokenBase
from maquette.core.errors import InvalidRequest
from maquette.core.registry import UnknownName
from maquette.db.engine import UnusableDatabase, open_database
from maquette.db.migrate import upgrade
from maquette.server.access import service as access
from maquette.server.bases import service as base_service
from maquette.server.logs import configure_logs
from maquette.server.serve import serve as serve_forever
from maquette.server.settings import load_settings
from maquette.storage.base import UnusableStorage

Result = TypeVar("Result")

keys = typer.Typer(help="API keys.", no_args_is_help=True)
bases = typer.Typer(help="Base models.", no_args_is_help=True)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8080,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Run the whole service until it is interrupted; prints one line when it listens."""
    with operator_errors():
        settings = load_settings(os.environ, data_dir=data_dir)
        configure_logs(settings.log_format)
        asyncio.run(serve_forever(settings, host, port, lambda url: print(f"listening on {url}", flush=True)))


@keys.command("create")
def create_key(
    tenant: Annotated[str, typer.Option(help="Whose; made if there is no such tenant.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make an API key and print it. It is never shown again."""
    print(_in_transaction(data_dir, lambda conn: access.create_key(conn, tenant)))


@keys.command("list")
def list_keys(
    json: Json = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """List API keys by their public part."""
    found = _in_transaction(data_dir, access.list_keys)
    if json:
        print_json(found)
        return
    table = Table("key", "tenant", "created", "revoked", box=None, pad_edge=False)
    for key in found:
        table.add_row(
            key.lookup, key.tenant, instant(key.created_at), instant(key.revoked_at) if key.revoked_at else ""
        )
    out.print(table)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key, or its public part as `maquette keys list` shows it.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Revoke an API key at once."""
    if not _in_transaction(data_dir, lambda conn: access.revoke_key(conn, key)):
        raise InvalidRequest("key", "no such key, or it is revoked already; `maquette keys list` shows them")


@bases.command("add")
def add_base(
    name: Annotated[str, typer.Argument(help="What training requests call it.")],
    source: Annotated[Path, typer.Option("--from", help="Folder in diffusers layout with safetensors weights.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Register a base model."""
    with operator_errors():
        base = asyncio.run(base_service.inspect_folder(name, source))
    _in_transaction(data_dir, lambda conn: base_service.register(conn, base))


@bases.command("list")
def list_bases(json: Json = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List the registered base models."""
    found = _in_transaction(data_dir, base_service.list_all)
    if json:
        print_json(found)
        return
    table = Table("name", "family", "hash", "location", box=None, pad_edge=False)
    for base in found:
        table.add_row(base.name, base.family, base.sha256[:10], base.location)
    out.print(table)


def _in_transaction(data_dir: Path, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
    """Do something in one transaction on the data directory's migrated database."""

    async def run() -> Result:
        settings = load_settings(os.environ, data_dir=data_dir)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = open_database(settings.database)
        try:
            await upgrade(database)
            async with database.write() as conn:
                return await work(conn)
        finally:
            await database.dispose()

    with operator_errors():
        return asyncio.run(run())


@contextmanager
def operator_errors() -> Generator[None]:
    """Turn what an operator can mend into words and exit code 1."""
    try:
        yield
    except (BrokenBase, UnusableDatabase, UnusableStorage, UnknownName) as error:
        err.print(f"[red]error[/] {escape(str(error))}")
        raise typer.Exit(1) from None
