"""Getting a model from where the operator says it is, up to the point where it can be registered.

For commands: it blocks for as long as it reads, copies and downloads.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from maquette.bases.catalogue import BUNDLED_PATH, BaseKind
from maquette.bases.download import Progress
from maquette.bases.hub import Hub
from maquette.bases.making import OLD, PART, making, put_in_place
from maquette.bases.sources import Maker, Origin, Source, parse_source
from maquette.core.errors import InvalidRequest
from maquette.families.registry import layouts
from maquette.server.bases.repository import Base
from maquette.server.bases.service import check_name, check_not_bundled, inspect

FOLDER_NAME = re.compile(r"[\w(][\w.()+ -]*")
WITH_FILES = (BaseKind.CHECKPOINT, BaseKind.REFINER)
"""Kinds that may be given as one file and need configurations then."""
LOADED = (*WITH_FILES, BaseKind.VAE)
"""Kinds that are models: what an embedding holds is looked at without loading it."""

TryOut: TypeAlias = Callable[[Base], str | None]
"""Tries a base that lies where it says; see `trial.try_out`."""


class Added(Struct, frozen=True):
    """A model that can be registered.

    Attributes:
        origins: where what was made for it is from; nothing where it lies as it did.
        untried: why it could not be tried, in words; None where it was, or need not be.
    """

    base: Base
    origins: Sequence[Origin] = ()
    untried: str | None = None


def add(
    name: str,
    source: str,
    kind: BaseKind,
    *,
    configs: str = "",
    folder: Path,
    checkpoints: Sequence[Base],
    environment: Mapping[str, str],
    progress: Progress,
    try_out: TryOut,
) -> Added:
    """Look at a model where it lies, or make it from a checkpoint's file or a repository of a hub.

    Args:
        source: a path, or `org/name` on the hub, with `@revision` and `/path` behind it where wanted.
        configs: where a checkpoint's file has its configurations from: a path, a registered base's name, or a
            repository; empty is the obvious one.
        folder: where made models lie, each in a folder of its name.
        checkpoints: the registered base models.
        environment: says which hub is asked, and who asks, see `Hub`.
        progress: told of every download.
        try_out: asked of whatever is loaded, but for the bundled base and its parts, which are known to be whole.

    Raises:
        BrokenBase: it can't be had, or is none of this kind; the message says what was expected, or the fix.
        InvalidRequest: the name can't be used, or no configurations are needed.
    """
    check_name(name)
    found = parse_source(source)
    from_file = found.is_file and kind in WITH_FILES
    if configs and not from_file:
        raise InvalidRequest("configs", "only a checkpoint in one file needs them; leave it out")
    if kind is BaseKind.UPSCALER or not (found.hub or (from_file and found.path.exists())):
        base = inspect(name, found.path, kind)
        return Added(base, untried=_untried(base, try_out))
    check_not_bundled(name)
    place = folder.resolve() / _folder_name(name)
    with making(place) as part, closing(Hub(environment)) as hub:
        maker = Maker(part, place, layouts(), hub, progress)
        if from_file:
            origins = maker.from_file(found, _configs(configs, checkpoints), _folders(checkpoints))
        else:
            assert found.hub is not None, "what lies here stays where it is"
            origins = maker.from_hub(found.hub, kind)
        base = inspect(name, part, kind)
        untried = _untried(base, try_out)
        put_in_place(part, place)
    return Added(replace(base, location=str(place / Path(base.location).relative_to(part))), origins, untried)


def _untried(base: Base, try_out: TryOut) -> str | None:
    if base.kind not in LOADED or BUNDLED_PATH.resolve() in (Path(base.location), Path(base.location).parent):
        return None
    return try_out(base)


def _folder_name(name: str) -> str:
    """A name that a folder can have beside others in the making."""
    if not FOLDER_NAME.fullmatch(name) or name.endswith((PART, OLD)):
        raise InvalidRequest(
            "name",
            f"{name!r} must do as a folder's name: letters, digits, and behind the first also `. - + )` and blanks",
        )
    return name


def _configs(text: str, checkpoints: Sequence[Base]) -> Source | None:
    """A path goes before a registered base, and this before a repository."""
    if not text:
        return None
    found = parse_source(text)
    named = [Path(base.location) for base in checkpoints if base.name == text]
    return Source(named[0]) if named and not found.path.exists() else found


def _folders(checkpoints: Sequence[Base]) -> dict[str, list[Path]]:
    """Where base models lie, by family."""
    found: dict[str, list[Path]] = {}
    for base in checkpoints:
        found.setdefault(base.family, []).append(Path(base.location))
    return found
