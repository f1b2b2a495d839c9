"""Base models that the operator has registered."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.bases.catalogue import BUNDLED_BASE, BUNDLED_PATH, KNOWN_BASES
from maquette.bases.folder import inspect_base
from maquette.core.errors import InvalidRequest
from maquette.core.requirements import read
from maquette.core.specs import BaseRef, Name
from maquette.families.registry import FAMILIES, layouts
from maquette.server.bases import repository
from maquette.server.bases.repository import Base

CHECKPOINT = "checkpoint"


async def inspect_folder(name: str, folder: Path) -> Base:
    """What a folder in diffusers layout would be as a base of this name; reads all its weights.

    Raises:
        BrokenBase: it can't be one; the message names the file and the fix.
        InvalidRequest: the name is empty or too long, or that of the bundled base for another folder.
    """
    return await asyncio.to_thread(_inspect, read(name, Name, "name"), folder)


def _inspect(name: str, folder: Path) -> Base:
    if name == BUNDLED_BASE.name and folder.resolve() != BUNDLED_PATH.resolve():
        raise InvalidRequest("name", f"{name!r} is the base that comes with Maquette; choose another name")
    found = inspect_base(folder, layouts())
    return Base(name=name, kind=CHECKPOINT, family=found.family, location=str(found.path), sha256=found.sha256)


async def register(conn: AsyncConnection, base: Base) -> None:
    """Open a base to every tenant; an earlier one of the same name is replaced, and tasks that pinned it fail."""
    await repository.put(conn, base)


async def list_all(conn: AsyncConnection) -> list[Base]:
    """Every base by name."""
    return await repository.all_bases(conn)


async def pin(conn: AsyncConnection, name: str) -> BaseRef:
    """The base that a new task of this `base_model` trains on; its family is one of this installation.

    Raises:
        InvalidRequest: there is none; the message lists those there are.
    """
    families = FAMILIES.names()
    base = await repository.find(conn, name)
    if base is None:
        usable = [base.name for base in await repository.all_bases(conn) if base.family in families]
        raise InvalidRequest("base_model", f"{_unknown(name, families)}; this server has {_listed(usable)}")
    if base.family not in families:
        raise InvalidRequest(
            "base_model", f"{name!r} is of the family {base.family}, and this server trains {_listed(families)} only"
        )
    return BaseRef(base.name, base.family, base.sha256)


def _unknown(name: str, families: Sequence[str]) -> str:
    """What is wrong with a name that no base has; for a published one, what its operator can do about it."""
    known = {base.name: base.family for base in KNOWN_BASES}
    if name not in known:
        return f"unknown base model {name!r}"
    family = known[name]
    if family is not None and family not in families:
        return f"{name!r} is of the family {family}, which this server can't train"
    return f"{name!r} is a published name under which nothing is registered yet (`maquette bases add {name} --from …`)"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none yet"
