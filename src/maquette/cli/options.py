"""Options of commands from the definitions of what they send: type, range and help stand there once."""

import inspect as python
from collections.abc import Callable, Collection
from typing import Annotated, Any

import typer
from msgspec import Struct, inspect


def with_options(
    kind: type[Struct], *, panel: str, names: Collection[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a struct, or for those of these `names`.

    The command receives them as keyword arguments; those that were not given are None. `panel` is the heading under
    which its help shows them.
    """
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    options = [
        python.Parameter(field.name, python.Parameter.KEYWORD_ONLY, default=None, annotation=_option(field, panel))
        for field in info.fields
        if names is None or field.name in names
    ]

    def decorate(command: Any) -> Any:
        signature = python.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*own, *options])
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
        return command

    return decorate


def given(options: dict[str, Any], kind: type[Struct]) -> dict[str, Any]:
    """Those options that the user gave, of this struct's fields."""
    return {name: value for name, value in options.items() if name in kind.__struct_fields__ and value is not None}


def _option(field: inspect.Field, panel: str) -> Any:
    assert isinstance(field.type, inspect.Metadata), f"{field.name} lacks a description"
    kind = _bare(field.type)
    limits: dict[str, Any] = {}
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        limits = {"min": kind.ge, "max": kind.le}
    words: str = (field.type.extra_json_schema or {})["description"]
    return Annotated[
        _python(kind) | None, typer.Option(help=words, show_default=False, rich_help_panel=panel, **limits)
    ]


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _python(kind: inspect.Type) -> Any:
    match kind:
        case inspect.IntType():
            return int
        case inspect.FloatType():
            return float
        case inspect.BoolType():
            return bool
        case inspect.EnumType(cls=cls):
            return cls
        case _:
            return str
