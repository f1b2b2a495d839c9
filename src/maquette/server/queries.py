"""Query strings: one form for what clients write in several."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.params import QueryParameter
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send
from litestar.typing import FieldDefinition
from msgspec import Meta, Struct, inspect

from maquette.core.errors import InvalidRequest
from maquette.core.manual import SAME
from maquette.core.requirements import description

_BRACKETED = re.compile(r"\[([^\[\]]+)\]")
_PLACE_IN_LIST = re.compile(r"\[[0-9]*\]\Z")

Pairs = list[tuple[str, str]]


class Published(Struct, frozen=True):
    """Beside a parameter's definition: where it departs from the published API."""

    words: str


class TidyQueries(ASGIMiddleware):
    """Makes `pagination[limit]=5` read like `pagination.limit=5`, drops parameters without a value, refuses doubles."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Rewrite the query before anybody parses it."""
        if scope["query_string"]:
            pairs = dotted(scope["query_string"])
            refuse_doubles(pairs, scope["route_handler"])
            scope["query_string"] = urlencode(pairs).encode()
        await next_app(scope, receive, send)


def dotted(query: bytes) -> Pairs:
    """The query's parameters with dots for brackets, without blank values, and without `[]` or a number behind a list's
    name: lists are in the order in which they come.
    """
    return [
        (_BRACKETED.sub(r".\1", _PLACE_IN_LIST.sub("", name)), value)
        for name, value in parse_qsl(query.decode("latin-1"))
    ]


def refuse_doubles(pairs: Pairs, handler: BaseRouteHandler) -> None:
    """A call's single parameters come once at most: no way to choose among two is better than the other.

    Raises:
        InvalidRequest: one comes twice.
    """
    names = [name for name, _ in pairs]
    if len(set(names)) == len(names):
        return
    for field, rule in parameters(handler):
        name = rule.name or field.name
        if names.count(name) > 1 and not field.is_non_string_collection:
            raise InvalidRequest(name, f"must be given once, got it {names.count(name)} times")


def parameters(handler: BaseRouteHandler) -> Iterator[tuple[FieldDefinition, QueryParameter]]:
    """What a call reads from its query."""
    for field in handler.parsed_fn_signature.parameters.values():
        if isinstance(field.kwarg_definition, QueryParameter):
            yield field, field.kwarg_definition


def parameter_type(field: FieldDefinition, rule: QueryParameter) -> inspect.Type:
    """What a parameter takes."""
    bounds = Meta(ge=rule.ge, le=rule.le)
    return inspect.type_info(Annotated[field.annotation, bounds] if rule.ge is not None else field.annotation)


def query_table(handlers: Iterable[ControllerRouterHandler]) -> str:
    """Every query parameter of these calls, below `/v3`, as a Markdown table; `docs/api.md` shows it."""
    rows = [
        f"| `/v3{path.replace(':str', '')}` | `{rule.name}` | {description(parameter_type(field, rule))}"
        f" | {_published(field)} | {_default(field)} | {rule.description} |"
        for handler in handlers
        if isinstance(handler, BaseRouteHandler)
        for path in sorted(handler.paths)
        for field, rule in parameters(handler)
    ]
    head = "| call | parameter | takes | beside the published API | default | meaning |"
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- |", *rows])


def _published(field: FieldDefinition) -> str:
    return next((beside.words for beside in field.metadata if isinstance(beside, Published)), SAME)


def _default(field: FieldDefinition) -> str:
    if not field.has_default:
        return "required"
    return "empty" if field.default in ("", ()) else f"`{field.default}`"
