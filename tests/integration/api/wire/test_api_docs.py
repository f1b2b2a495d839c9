"""The manual of the API knows every call, every field, every limit and every reason."""

import re
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from maquette.core.errors import HTTP_STATUS
from maquette.core.manual import (
    body_table,
    component_table,
    drawing_table,
    image_to_image_table,
    setting_table,
    text_to_image_table,
)
from maquette.server.app import KEYED
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


def test_the_bodies_limit_is_told() -> None:
    assert f"`MAQUETTE_MAX_BODY_BYTES` ({Settings().max_body_bytes} unless" in MANUAL


def test_every_reason_has_a_row() -> None:
    rows = {(int(status), name) for status, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", MANUAL, re.MULTILINE)}
    assert rows == {(status, str(name)) for name, status in HTTP_STATUS.items()}
