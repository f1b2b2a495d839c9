"""Base models that the operator has registered."""

import asyncio
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.bases.folder import inspect_base
from maquette.core.errors import InvalidRequest
from maquette.core.specs import BaseRef
from maquette.server.bases import repository
from maquette.server.bases.repository import Base

CHECKPOINT = "checkpoint"
LONGEST_NAME = 255


async def inspect_folder(name: str, folder: Path) -> Base:
    """What a folder in diffusers layout would be as a base of this name; reads all its weights.

    Raises:
        BrokenBase: it can't be one; the message names the file and the fix.
        InvalidRequest: the name is empty or too long.
    """
    if not 1 <= len(name) <= LONGEST_NAME:
        raise InvalidRequest("name", f"must be a name of 1 to {LONGEST_NAME} characters")
    found = await asyncio.to_thread(inspect_base, folder)
    return Base(name=name, kind=CHECKPOINT, family=found.family, location=str(found.path), sha256=found.sha256)


async def register(conn: AsyncConnection, base: Base) -> None:
    """Open a base to every tenant; an earlier one of the same name is replaced, and tasks that pinned it fail."""
    await repository.put(conn, base)


async def list_all(conn: AsyncConnection) -> list[Base]:
    """Every base by name."""
    return await repository.all_bases(conn)


async def pin(conn: AsyncConnection, name: str) -> BaseRef:
    """The base that a new task of this `base_model` trains on.

    Raises:
        InvalidRequest: there is none; the message lists those there are.
    """
    base = await repository.find(conn, name)
    if base is None:
        known = ", ".join(base.name for base in await repository.all_bases(conn))
        raise InvalidRequest("base_model", f"unknown base model {name!r}; this server has {known or 'none yet'}")
    return BaseRef(base.name, base.family, base.sha256)
