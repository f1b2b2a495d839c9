"""Reading what others wrote, leniently, and what a type asks of a value, in words that name the limit and the fix.

One reader serves bodies, component arguments, queries and the command line, so a number has the same forms everywhere:
a JSON number, or a string that would be one (`"512"`, `"512.0"`, `"1e-4"`).
"""

import re
from typing import Any, TypeVar, overload

import msgspec
from msgspec import Struct, inspect

from maquette.core.errors import InvalidRequest

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
_STEP = re.compile(r"[^.\[\]]+")
_SHOWN = 60


@overload
def read(data: object, kind: type[T], field: str = "") -> T: ...
@overload
def read(data: object, kind: Any, field: str = "") -> Any: ...
def read(data: object, kind: Any, field: str = "") -> Any:
    """Convert decoded JSON, where numbers may be strings; `field` is where it stands, as the wire calls it.

    Raises:
        InvalidRequest: something breaks its rule; the message names it as it is called on the wire.
    """
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error, data, kind, field) from None


def check(value: Struct) -> None:
    """Hold a value that Python built against its own definition, as `read` holds what comes over the wire.

    Raises:
        InvalidRequest: a field breaks its rule.
    """
    read(msgspec.to_builtins(value), type(value))


def refusal(error: msgspec.ValidationError, data: object, kind: Any, field: str = "") -> InvalidRequest:
    """Say in the wire's own words why `data`, which stands in `field`, is no `kind`; `error` is what msgspec said."""
    path, problem = _split(str(error))
    if missing := _MISSING.search(problem):
        path = _joined(path, missing["name"])
        return InvalidRequest(_joined(field, path), f"is required; it {requirement(_type_at(kind, path))}")
    wanted = requirement(_type_at(kind, path), mistyped=", got `" in problem)
    return InvalidRequest(_joined(field, path) or "body", f"{wanted}, got {shown(_value_at(data, path))}")


def requirement(kind: inspect.Type, *, mistyped: bool = True) -> str:
    """What a value of this type must be, e.g. "must be a whole number between 4 and 128".

    Where the value is not `mistyped`, its kind goes without saying: "must be between 4 and 128".
    """
    return f"must be {description(kind, mistyped=mistyped)}"


def shown(value: object) -> str:
    """A refused value in few words, as JSON where it is short."""
    match value:
        case list():
            return f"{len(value)} items"
        case dict():
            return "an object"
        case str() if len(value) > _SHOWN:
            return f"{len(value)} characters"
        case _:
            return msgspec.json.encode(value).decode()


def description(kind: inspect.Type, *, mistyped: bool = True) -> str:
    """What a type takes, e.g. "a whole number between 4 and 128"; see `requirement`."""
    kind = _peeled(kind)
    match kind:
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            return f"{noun} {_bounds(kind)}".strip() if mistyped else _bounds(kind)
        case inspect.StrType() | inspect.CollectionType():
            noun, unit = ("a string", "characters") if isinstance(kind, inspect.StrType) else ("a list", "items")
            return f"{noun} {_length(kind, unit)}".strip()
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType():
            return f"one of {', '.join(member.value for member in kind.cls)}"
        case inspect.UnionType():
            parts = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
            return " or ".join(description(part, mistyped=mistyped) for part in parts)
        case _:
            return "an object"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f"between {kind.ge} and {kind.le}"
    limits = {"above": kind.gt, "at least": kind.ge, "below": kind.lt, "at most": kind.le}
    return " and ".join(f"{words} {limit}" for words, limit in limits.items() if limit is not None)


def _length(kind: inspect.StrType | inspect.CollectionType, unit: str) -> str:
    if isinstance(kind, inspect.StrType) and kind.pattern is not None:
        return f"that matches {kind.pattern}"
    if kind.max_length is None:
        return f"of at least {kind.min_length} {unit}" if kind.min_length else ""
    return f"of {kind.min_length or 0} to {kind.max_length} {unit}"


def _joined(field: str, path: str) -> str:
    return ".".join(part for part in (field, path) if part)


def _split(message: str) -> tuple[str, str]:
    found = _PATH.search(message)
    return (found["path"], message[: found.start()]) if found else ("", message)


def _type_at(kind: Any, path: str) -> inspect.Type:
    found = _peeled(inspect.type_info(kind))
    for step in _STEP.findall(path):
        match found:
            case inspect.StructType():
                found = _peeled(next(field.type for field in found.fields if field.encode_name == step))
            case inspect.CollectionType():
                found = _peeled(found.item_type)
            case _:
                return found
    return found


def _peeled(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _value_at(data: Any, path: str) -> object:
    for step in _STEP.findall(path):
        data = data[int(step)] if isinstance(data, list) else data[step]
    return data
