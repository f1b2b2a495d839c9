"""The operator's commands, which open the data directory itself."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from msgspec.structs import asdict
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.cli.download import download_bar
from maquette.cli.output import (
    DEFAULT_DATA_DIR,
    CommandFailed,
    DataDir,
    Json,
    err,
    instant,
    out,
    print_json,
    print_table,
)
from maquette.core.basefolder import BrokenBase
from maquette.core.errors import InvalidRequest
from maquette.core.registry import UnknownName
from maquette.db.engine import Database, UnusableDatabase, open_database
from maquette.db.migrate import require_current, upgrade_if_new
from maquette.server.access import service as access
from maquette.server.bases import adding
from maquette.server.bases import service as base_service
from maquette.server.bases.trial import try_out
from maquette.server.logs import configure_logs
from maquette.server.serve import serve as serve_forever
from maquette.server.settings import load_settings
from maquette.storage.base import UnusableStorage

Result = TypeVar("Result")
Transaction = Callable[[Database], AbstractAsyncContextManager[AsyncConnection]]

keys = typer.Typer(help="API keys.", no_args_is_help=True)
bases = typer.Typer(help="Base models, and what drawing may add to them.", no_args_is_help=True)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8080,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Serve for trying clients out: small, and breaking down when asked to.")
    ] = False,
) -> None:
    """Run the whole service until it is interrupted; prints one line when it listens."""
    with operator_errors():
        settings = load_settings(os.environ, data_dir=data_dir, sandbox=sandbox)
        configure_logs(settings.log_format)
        asyncio.run(serve_forever(settings, host, port, lambda url: print(f"listening on {url}", flush=True)))


@keys.command("create")
def create_key(
    tenant: Annotated[str, typer.Option(help="Whose; made if there is no such tenant.")],
    json: Json = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make an API key and print it. It is never shown again."""
    key = _on_database(data_dir, Database.write, lambda conn: access.create_key(conn, tenant), may_be_new=True)
    if json:
        print_json({"key": key, "tenant": tenant})
    else:
        out.print(key)


@keys.command("list")
def list_keys(json: Json = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List API keys by their public part."""
    found = _on_database(data_dir, Database.read, access.list_keys)
    if json:
        print_json(found)
        return
    print_table(
        ("key", "tenant", "created", "revoked"),
        (
            (key.lookup, key.tenant, instant(key.created_at), instant(key.revoked_at) if key.revoked_at else "")
            for key in found
        ),
    )


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key, or its public part as `maquette keys list` shows it.")],
    json: Json = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Revoke an API key at once."""
    revoked = _on_database(data_dir, Database.write, lambda conn: access.revoke_key(conn, key))
    if revoked is None:
        raise InvalidRequest("key", "no such key, or it is revoked already; `maquette keys list` shows them")
    err.print(f"revoked the key {revoked.lookup} of {revoked.tenant}")
    if json:
        print_json(revoked)


@bases.command("add")
def add_base(
    name: Annotated[str, typer.Argument(help="What requests call it.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Folder in diffusers layout; a checkpoint's or an embedding's .safetensors file; or a repository of"
            " the model hub, org/name, with @revision and /path behind it where wanted.",
        ),
    ],
    kind: Annotated[base_service.BaseKind, typer.Option(help="What it is for.")] = base_service.BaseKind.CHECKPOINT,
    configs: Annotated[
        str,
        typer.Option(
            help="Where a checkpoint's file has its configurations and tokenizers from: a folder, a registered base, or"
            " a repository. Left out, the obvious one."
        ),
    ] = "",
    json: Json = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Register a base model, or a model that drawing may add to one."""

    async def ask(conn: AsyncConnection) -> list[base_service.Base]:
        await base_service.check_free(conn, name, kind)
        return await base_service.of_kind(conn, base_service.BaseKind.CHECKPOINT)

    # Before anything is downloaded, not after it.
    checkpoints = _on_database(data_dir, Database.read, ask, may_be_new=True)
    with operator_errors(), download_bar() as progress:
        added = adding.add(
            name,
            source,
            kind,
            configs=configs,
            folder=load_settings(os.environ, data_dir=data_dir).data_dir / "bases",
            checkpoints=checkpoints,
            environment=os.environ,
            progress=progress,
            try_out=try_out,
        )
    base = added.base
    _on_database(data_dir, Database.write, lambda conn: base_service.register(conn, base))
    for origin in added.origins:
        err.print(f"from {origin}")
    if added.untried:
        err.print(f"not tried: {added.untried}; what is damaged in it is told when it is first used")
    err.print(f"registered {base.name}: {base.kind}, {base.family}, {base.sha256[:10]}, {base.location}")
    if json:
        print_json(asdict(base) | {"origins": added.origins})


@bases.command("alias")
def alias_base(
    alias: Annotated[str, typer.Argument(help="Another name.")],
    name: Annotated[str, typer.Argument(help="The registered model that it shall mean; empty with --remove.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Forget the alias.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Give a registered model another name, or take it away; `maquette bases list` shows them."""
    if remove == bool(name):
        raise InvalidRequest("name", "give the model that the alias shall mean, or --remove")
    if remove:
        _on_database(data_dir, Database.write, lambda conn: base_service.remove_alias(conn, alias))
        err.print(f"removed the alias {alias}")
    else:
        _on_database(data_dir, Database.write, lambda conn: base_service.add_alias(conn, alias, name))
        err.print(f"{alias} is {name} from now on")


@bases.command("list")
def list_bases(json: Json = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List the registered models."""
    found = _on_database(data_dir, Database.read, base_service.list_all)
    if json:
        print_json(found)
        return
    print_table(
        ("name", "kind", "family", "hash", "aliases", "location"),
        (
            (base.name, base.kind, base.family, base.sha256[:10], ", ".join(base.aliases), base.location)
            for base in found
        ),
    )


def _on_database(
    data_dir: Path,
    transaction: Transaction,
    work: Callable[[AsyncConnection], Awaitable[Result]],
    *,
    may_be_new: bool = False,
) -> Result:
    """Do something in one transaction on the data directory's database.

    A server may be running on it, maybe of another version: only a database that has no schema yet is given one, and
    only where it `may_be_new`.
    """

    async def run() -> Result:
        database = open_database(load_settings(os.environ, data_dir=data_dir).database)
        try:
            if may_be_new:
                if database.file is not None:
                    database.file.parent.mkdir(parents=True, exist_ok=True)
                await upgrade_if_new(database)
            else:
                await require_current(database)
            async with transaction(database) as conn:
                return await work(conn)
        finally:
            await database.dispose()

    with operator_errors():
        return asyncio.run(run())


@contextmanager
def operator_errors() -> Generator[None]:
    """Turn what an operator can mend into words."""
    try:
        yield
    except (BrokenBase, UnusableDatabase, UnusableStorage, UnknownName) as error:
        raise CommandFailed(str(error)) from error
    except DBAPIError as error:
        raise CommandFailed(f"the database refuses: {error.orig}") from error
