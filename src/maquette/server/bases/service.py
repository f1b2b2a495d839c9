"""Models that the operator has registered: bases to train on and to draw with, and what drawing may add to them."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.bases.catalogue import (
    BUNDLED_BASE,
    BUNDLED_PATH,
    KNOWN_BASES,
    BaseKind,
    file_name,
    spellings,
)
from maquette.bases.embedding import inspect_embedding
from maquette.bases.folder import inspect_base
from maquette.bases.vae import inspect_vae
from maquette.core.basefolder import BrokenBase
from maquette.core.errors import InvalidRequest
from maquette.core.requirements import read
from maquette.core.specs import BaseRef, Name
from maquette.families.registry import FAMILIES, layouts
from maquette.server.bases import repository
from maquette.server.bases.repository import Alias, Base

TITLES: Mapping[BaseKind, str] = {
    BaseKind.CHECKPOINT: "base model",
    BaseKind.VAE: "VAE",
    BaseKind.EMBEDDING: "embedding",
    BaseKind.REFINER: "refiner",
    BaseKind.UPSCALER: "upscaler",
}
"""What errors call a kind."""


class ListedBase(Struct, frozen=True, kw_only=True):
    """A registered model as its operator sees it; `aliases` are its other names."""

    name: str
    kind: str
    family: str
    location: str
    sha256: str
    aliases: list[str]


async def inspect_folder(name: str, path: Path, kind: BaseKind = BaseKind.CHECKPOINT) -> Base:
    """What a folder, or an embedding's file, would be as a model of this name and kind; reads all its weights.

    Raises:
        BrokenBase: it can't be one; the message names the file and the fix.
        InvalidRequest: the name is empty or too long, or that of the bundled base for something else; or models of this
            kind need no file.
    """
    return await asyncio.to_thread(inspect, name, path, kind)


def inspect(name: str, path: Path, kind: BaseKind) -> Base:
    """As `inspect_folder`, for commands."""
    check_name(name)
    bundled = kind is BaseKind.CHECKPOINT and path.resolve() == BUNDLED_PATH.resolve() and name == BUNDLED_BASE.name
    if not bundled:
        check_not_bundled(name)
    match kind:
        case BaseKind.CHECKPOINT | BaseKind.REFINER:
            found = inspect_base(path, layouts(), kind)
            text_width, latent_channels = found.text_width, found.latent_channels
        case BaseKind.VAE:
            found = inspect_vae(path, layouts())
            text_width, latent_channels = None, found.latent_channels
        case BaseKind.EMBEDDING:
            found = inspect_embedding(path, layouts())
            text_width, latent_channels = found.text_width, None
        case BaseKind.UPSCALER:
            raise InvalidRequest("kind", "the one upscaler there is, Latent, needs no file and is always there")
    if found.family not in FAMILIES.names():
        raise BrokenBase(
            f"{path}: expected {TITLES[kind]} of a family of this installation ({_listed(FAMILIES.names())}), found one"
            f" of {found.family}"
        )
    return Base(
        name=name,
        kind=kind,
        family=found.family,
        location=str(found.path),
        sha256=found.sha256,
        text_width=text_width,
        latent_channels=latent_channels,
    )


def check_name(name: str) -> None:
    """Assert that a model may be called so.

    Raises:
        InvalidRequest: it is empty or too long.
    """
    read(name, Name, "name")


def check_not_bundled(name: str) -> None:
    """Assert that a name does not mean the bundled base.

    Raises:
        InvalidRequest: it does.
    """
    if BUNDLED_BASE.name in spellings(name):
        raise InvalidRequest("name", f"{name!r} is the base that comes with Maquette; choose another name")


async def check_free(conn: AsyncConnection, name: str, kind: str) -> None:
    """Assert that a model of a kind may be registered under a name.

    Raises:
        InvalidRequest: another model of this kind has the same file name.
    """
    for other in await repository.find_called(conn, spellings(name)):
        if other.name != name and other.kind == kind and file_name(other.name) == file_name(name):
            raise InvalidRequest(
                "name", f"{name!r} and {other.name!r}, which is registered, mean the same; choose another name"
            )


async def register(conn: AsyncConnection, base: Base) -> None:
    """Open a model to every tenant.

    An earlier one of the same name is replaced, and tasks that pinned it fail. Aliases that are spellings of that name
    go: a model's own name means that model, however it is spelt.

    Raises:
        InvalidRequest: see `check_free`.
    """
    await check_free(conn, base.name, base.kind)
    await repository.put(conn, base, file_name(base.name), spellings(base.name))


async def list_all(conn: AsyncConnection) -> list[ListedBase]:
    """Every registered model by name."""
    aliases = await repository.all_aliases(conn)
    return [
        ListedBase(
            name=base.name,
            kind=base.kind,
            family=base.family,
            location=base.location,
            sha256=base.sha256,
            aliases=[one.alias for one in aliases if one.base_name == base.name],
        )
        for base in await repository.all_bases(conn)
    ]


async def of_kind(conn: AsyncConnection, kind: BaseKind) -> list[Base]:
    """The registered models of a kind, by name."""
    return [base for base in await repository.all_bases(conn) if base.kind == kind]


async def add_alias(conn: AsyncConnection, alias: str, name: str) -> None:
    """Give a registered model another name; a model that had it loses it.

    Raises:
        InvalidRequest: the alias is empty, too long or a spelling of a model's own name, or there is no model of that
            name.
    """
    own = spellings(read(alias, Name, "alias"))
    if any(base.name in own for base in await repository.find_called(conn, own)):
        raise InvalidRequest("alias", f"{alias!r} is a registered model's own name; choose another alias")
    if await repository.find(conn, name) is None:
        names = [base.name for base in await repository.all_bases(conn)]
        raise InvalidRequest("name", f"no model {name!r} is registered; this server has {_listed(names)}")
    await repository.put_alias(conn, Alias(alias, name))


async def remove_alias(conn: AsyncConnection, alias: str) -> None:
    """Forget an alias; tasks that asked by it go on with the model it meant.

    Raises:
        InvalidRequest: there is none of this name.
    """
    if not await repository.delete_alias(conn, alias):
        known = [one.alias for one in await repository.all_aliases(conn)]
        raise InvalidRequest("alias", f"there is no alias {alias!r}; this server has {_listed(known)}")


async def resolve(conn: AsyncConnection, name: str, kind: str) -> Base | None:
    """The model of a kind that a name means, whichever way it is spelt.

    A name may be the one it was registered under, an alias, or either published name, with or without a file's
    extension.
    """
    called = await repository.find_called(conn, spellings(name))
    return next((base for base in called if base.kind == kind), None)


async def require(conn: AsyncConnection, name: str, kind: BaseKind, *, field: str) -> Base:
    """As `resolve`; the model's family is one of this installation.

    Raises:
        InvalidRequest: there is none; the message begins with `field` and lists those there are.
    """
    families = FAMILIES.names()
    found = await resolve(conn, name, kind)
    if found is None:
        usable = [base.name for base in await of_kind(conn, kind) if base.family in families]
        others = await repository.find_called(conn, spellings(name))
        problem = _of_another_kind(name, others[0]) if others else _unknown(name, kind, families)
        raise InvalidRequest(field, f"{problem}; this server has {_listed(usable)}")
    if found.family not in families:
        raise InvalidRequest(
            field, f"{name!r} is of the family {found.family}, and this server supports {_listed(families)} only"
        )
    return found


async def pin(conn: AsyncConnection, name: str) -> BaseRef:
    """The base that a new task of this `base_model` trains on; its family is one of this installation.

    Raises:
        InvalidRequest: there is none; the message lists those there are.
    """
    return as_ref(await require(conn, name, BaseKind.CHECKPOINT, field="base_model"))


def as_ref(base: Base) -> BaseRef:
    """How tasks pin a model: another one under the same name is not what they asked for."""
    return BaseRef(base.name, base.family, base.sha256)


async def locate(conn: AsyncConnection, ref: BaseRef) -> str | None:
    """Where a pinned model lies; None where it is no longer registered, or another one under its name."""
    base = await repository.find(conn, ref.name)
    return base.location if base and base.sha256 == ref.sha256 else None


def check_fits(added: Base, checkpoint: Base, *, field: str) -> None:
    """Assert that a VAE, an embedding or a refiner can be drawn with together with a checkpoint.

    Raises:
        InvalidRequest: it can't; the message begins with `field`.
    """
    for ours, theirs, words in (
        (added.family, checkpoint.family, "is of the family {}"),
        (added.text_width, checkpoint.text_width, "is for text encoders with {} numbers in a vector"),
        (added.latent_channels, checkpoint.latent_channels, "is for latents of {} channels"),
    ):
        if ours is not None and theirs is not None and ours != theirs:
            raise InvalidRequest(field, f"{added.name!r} {words.format(ours)}; {checkpoint.name!r} has {theirs}")


def _of_another_kind(name: str, base: Base) -> str:
    return f"{name!r} is registered as {TITLES[BaseKind(base.kind)]}"


def _unknown(name: str, kind: BaseKind, families: Sequence[str]) -> str:
    """What is wrong with a name that no model has; for a published one, what its operator can do about it."""
    known = next((base for base in KNOWN_BASES if base.name in spellings(name)), None)
    if known is None or kind is not BaseKind.CHECKPOINT:
        return f"unknown {TITLES[kind]} {name!r}"
    if known.family is not None and known.family not in families:
        return f"{name!r} is of the family {known.family}, which this server can't train"
    fix = f"`maquette bases add {known.name} --from …`"
    return f"{name!r} is a published name under which nothing is registered yet ({fix})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none yet"
