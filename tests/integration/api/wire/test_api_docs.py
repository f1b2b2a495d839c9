"""The manual of the API knows every call, every field, every limit and every reason."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute
from msgspec import inspect

from maquette.core.errors import HTTP_STATUS
from maquette.core.findings import SEVERITIES
from maquette.core.manual import (
    body_table,
    component_table,
    drawing_table,
    image_to_image_table,
    setting_table,
    text_to_image_table,
)
from maquette.server.app import KEYED
from maquette.server.models.schemas import ModelList
from maquette.server.queries import query_table
from maquette.server.settings import Settings
from maquette.testing.api import Api, reason

MANUAL = (Path(__file__).parents[4] / "docs" / "api.md").read_text()


def test_every_call_has_a_row(app: Litestar) -> None:
    served = {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
        if method != "OPTIONS"
    }
    rows: set[tuple[str, str]] = set(re.findall(r"^\| `(\w+) (\S+)` \|", MANUAL, re.MULTILINE))
    assert "and the same without `/v3`" in MANUAL
    assert rows | {(method, path.removeprefix("/v3")) for method, path in rows} == served


@pytest.mark.parametrize("path", ["/schema", "/schema/", "/schema/openapi.json", "/schema/x", "/docs"])
async def test_the_framework_serves_no_pages_of_its_own(api: Api, path: str) -> None:
    assert reason(await api.http.get(path)) == (404, "API_NOT_FOUND")
    assert (await api.http.get("/openapi.json")).json()["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    "table",
    [
        body_table(),
        setting_table(),
        component_table(),
        drawing_table(),
        text_to_image_table(),
        image_to_image_table(),
        query_table(KEYED),
    ],
)
def test_every_field_and_limit_is_in_a_table(table: str) -> None:
    assert f"\n\n{table}\n\n" in MANUAL


def test_no_table_shows_how_python_writes_what_is_empty() -> None:
    assert "| `/v3/model` | `filter.types` | a list | same | empty |" in query_table(KEYED)
    assert not re.search(r"\| `(?:\(\)|\[\]|None|''|UNSET)` \|", MANUAL)


def test_the_bodies_limit_is_told() -> None:
    assert f"`MAQUETTE_MAX_BODY_BYTES` ({Settings().max_body_bytes} unless" in MANUAL


def test_every_finding_has_a_row() -> None:
    rows = {(code, severity) for code, severity in re.findall(r"^\| `(\w+)` \| (\w+) \|", MANUAL, re.MULTILINE)}
    assert {(str(code), str(severity)) for code, severity in SEVERITIES.items()} <= rows


def test_every_reason_has_a_row() -> None:
    rows = {(int(status), name) for status, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", MANUAL, re.MULTILINE)}
    assert rows == {(status, str(name)) for name, status in HTTP_STATUS.items()}


def fields_of(kind: inspect.Type, path: str = "") -> Iterator[str]:
    """The fields of an answer, down to its plain values."""
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield from fields_of(field.type, f"{path}.{field.encode_name}".lstrip("."))
        case inspect.ListType(item_type=inspect.StructType() as item):
            yield from fields_of(item, f"{path}[]")
        case _:
            yield path


def answers(app: Litestar) -> dict[str, inspect.Type]:
    """What each call answers that the manual marks as published."""
    published = set(re.findall(r"^\| `(\w+ /v3\S+)` \| published:", MANUAL, re.MULTILINE))
    return {
        f"{method} {route.path}": inspect.type_info(handler.parsed_fn_signature.return_type.annotation)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if f"{method} {route.path}" in published
    }


def test_every_field_of_every_published_answer_is_compared(app: Litestar) -> None:
    found = answers(app)
    assert len(found) == 12
    # Said once for both, and with the models.
    del found["GET /v3/training/style"], found["GET /v3/model"]
    rows = re.findall(r"^\| `(\w+ /v3\S+)` \| `(\S+)` \| (?:same|extended|limited)\b", MANUAL, re.MULTILINE)
    assert rows == [(call, field) for call, _ in groups(rows) for field in fields_of(found[call])]
    assert {call for call, _ in rows} == set(found)


def groups(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first row of each call."""
    return [row for number, row in enumerate(rows) if row[0] not in {call for call, _ in rows[:number]}]


def test_every_field_of_a_model_is_compared() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (?:same|extended|limited) \|", MANUAL, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    fields = [
        field.split("[].")[1].partition(".")[0] for field in fields_of(inspect.type_info(ModelList)) if "[]" in field
    ]
    assert set(named) == set(fields)
