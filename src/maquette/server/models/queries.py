"""What clients write in the query of the list of models, in its several spellings."""

import re
from collections.abc import Sequence

from msgspec import Struct

from maquette.core.errors import InvalidRequest
from maquette.core.requirements import read, shown
from maquette.server.models.schemas import ModelType, Source, Visibility

TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")
MOST_SKIPPED = 10**15

_CURSOR = re.compile(r"(?:c_){1,2}(?P<offset>[0-9]{1,16})")


class ModelQuery(Struct, frozen=True, kw_only=True):
    """What a query asks for; None and an empty set of types ask for everything.

    Attributes:
        words: a part of name, file name or tag.
        offset: how many models to skip.
    """

    visibility: Visibility | None
    source: Source | None
    types: frozenset[ModelType]
    is_sdxl: bool | None
    is_inpainting: bool | None
    is_nsfw: bool | None
    words: str
    limit: int
    offset: int


def read_query(
    *,
    visibility: str,
    source: str,
    types: Sequence[str],
    is_sdxl: str,
    is_inpainting: str,
    is_nsfw: str,
    words: str,
    limit: int,
    cursor: str,
) -> ModelQuery:
    """Read the parameters as they stand in a query, where an empty one is not given.

    Raises:
        InvalidRequest: one can't be read; the message names it.
    """
    return ModelQuery(
        visibility=read(visibility, Visibility, "filter.visibility") if visibility else None,
        source=read(source, Source, "filter.source") if source else None,
        types=frozenset(read(name, ModelType, "filter.types") for name in _each(types)),
        is_sdxl=read_flag(is_sdxl, "filter.is_sdxl"),
        is_inpainting=read_flag(is_inpainting, "filter.is_inpainting"),
        is_nsfw=read_flag(is_nsfw, "filter.is_nsfw"),
        words=_words(words),
        limit=limit,
        offset=read_offset(cursor),
    )


def read_flag(text: str, field: str) -> bool | None:
    """A boolean as Go reads one; None where it is not given.

    Raises:
        InvalidRequest: it is none.
    """
    if text and text not in TRUE + FALSE:
        raise InvalidRequest(field, f"must be one of {', '.join(TRUE + FALSE)}, got {shown(text)}")
    return text in TRUE if text else None


def read_offset(cursor: str) -> int:
    """How many models the page of a cursor leaves out.

    Raises:
        InvalidRequest: it is none.
    """
    if not cursor:
        return 0
    found = _CURSOR.fullmatch(cursor)
    if found is None or int(found["offset"]) > MOST_SKIPPED:
        raise InvalidRequest("pagination.cursor", "must be empty, or c_ and a number of models to skip")
    return int(found["offset"])


def write_offset(offset: int) -> str:
    """The cursor of the page that leaves out this many models."""
    return f"c_{offset}"


def _words(text: str) -> str:
    """PostgreSQL takes no zero character; no name has one either."""
    if "\0" in text:
        raise InvalidRequest("filter.query", "must not contain the character U+0000")
    return text


def _each(types: Sequence[str]) -> list[str]:
    """Types may come one by one, or several with commas between them."""
    return [name.strip() for text in types for name in text.split(",") if name.strip()]
