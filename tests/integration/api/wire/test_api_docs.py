"""The manual of the API knows every call and every reason."""

import re
from pathlib import Path

from litestar import Litestar
from litestar.routes import HTTPRoute

from maquette.core.errors import HTTP_STATUS

MANUAL = (Path(__file__).parents[4] / "docs" / "api.md").read_text()


def test_every_call_has_a_row(app: Litestar) -> None:
    served = {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in app.routes
        if isinstance(route, HTTPRoute) and not route.path.startswith(("/schema", "/training", "/assets"))
        for method in route.methods
        if method != "OPTIONS"
    }
    rows = set(re.findall(r"^\| `(\w+) (\S+)` \|", MANUAL, re.MULTILINE))
    assert rows == served


def test_every_reason_has_a_row() -> None:
    rows = {(int(status), name) for status, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", MANUAL, re.MULTILINE)}
    assert rows == {(status, str(name)) for name, status in HTTP_STATUS.items()}
