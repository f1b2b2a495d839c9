"""Whatever goes wrong is said in the one envelope."""

from typing import Any

import pytest
from asyncpg.exceptions import CannotConnectNowError
from litestar import Litestar, get
from structlog.testing import capture_logs

from maquette.db.engine import Database, open_database
from maquette.db.migrate import upgrade
from maquette.server.access import service as access
from maquette.server.app import create_app
from maquette.server.settings import Settings
from maquette.storage.base import Storage
from maquette.testing.api import Api, reason
from maquette.testing.postgres import PostgresServer


@pytest.mark.parametrize("path", ["/", "/v3", "/nope", "/v3/nope", "/v3/training/a/b/c", "/schema/nope", "/v2"])
async def test_unknown_routes(api: Api, path: str) -> None:
    assert reason(await api.http.get(path)) == (404, "API_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v3/training"), ("DELETE", "/v3/training/subject"), ("POST", "/healthz"), ("GET", "/uploads/a/b.png")],
)
async def test_wrong_methods(api: Api, method: str, path: str) -> None:
    response = await api.http.request(method, path)
    assert reason(response) == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: is required; send a JSON object"),
        (b"{", "body: is no valid JSON: Input data was truncated"),
        (b"name=cat", "body: is no valid JSON: JSON is malformed"),
        (b'{"name": "\xff"}', "body: is no valid JSON: "),
        (b'{"width": NaN}', "body: is no valid JSON: "),
        (b'{"width": 1e999}', "body: is no valid JSON: Number out of range"),
        (b'{"name": "\\ud800"}', "body: is no valid JSON: "),
        (b"[" * 100_000, "body: is nested too deeply"),
        (b"[" * 500 + b"]" * 500, "body: "),
        (b'{"name":' * 900 + b"1" + b"}" * 900, "body: is nested too deeply"),
        (b"[1, 2]", "body: must be an object, got 2 items"),
        (b"3", "body: must be an object, got 3"),
        (b"null", "body: must be an object, got null"),
        (b"{}", "name: is required; it must be a string of 1 to 255 characters"),
        (b'{"name": "a\\u0000b"}', "name: must not contain the character U+0000"),
        (b'{"components": [{"name": "a\\u0000b"}]}', "components[0].name: must not contain the character U+0000"),
        (b" " * 2_000_001, "body: must be at most 2000000 bytes"),
    ],
)
async def test_broken_bodies(api: Api, body: bytes, message: str) -> None:
    response = await api.http.post("/v3/training/subject", content=body)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(message)


async def test_a_defect_is_logged_and_not_explained_to_the_client(
    settings: Settings, sqlite_database: Database, storage: Storage
) -> None:
    @get("/broken")
    async def broken() -> None:
        raise RuntimeError("the secret is 4711")

    app = create_app(settings, sqlite_database, storage)
    app.register(broken)
    api = Api(app, "no key")
    with capture_logs() as logs:
        response = await api.http.get("/broken")
    assert reason(response) == (500, "INTERNAL_ERROR")
    assert "4711" not in response.text
    assert "4711" in str(logs[0]["exc_info"])


async def test_a_database_that_goes_away_is_a_503(settings: Settings, storage: Storage) -> None:
    with PostgresServer() as server:
        database = open_database(await server.create("goes_away"))
        await upgrade(database)
        async with database.write() as conn:
            key = await access.create_key(conn, "first")
        api = Api(create_app(settings, database, storage), key)
        assert (await api.http.get("/readyz")).status_code == 200
    for path in ("/readyz", "/v3/training", "/v3/training"):
        with capture_logs() as logs:
            response = await api.http.get(path)
        assert reason(response) == (503, "SERVICE_UNAVAILABLE"), logs
        assert response.headers["retry-after"] == "5"
    assert (await api.http.get("/healthz")).status_code == 200
    await database.dispose()


async def test_a_database_that_starts_up_is_a_503(
    settings: Settings, sqlite_database: Database, storage: Storage
) -> None:
    @get("/starting")
    async def starting() -> None:
        raise CannotConnectNowError("the database system is starting up")

    app = create_app(settings, sqlite_database, storage)
    app.register(starting)
    with capture_logs():
        assert reason(await Api(app, "no key").http.get("/starting")) == (503, "SERVICE_UNAVAILABLE")


def headers_of(call: dict[str, Any]) -> set[str]:
    return {parameter["name"] for parameter in call.get("parameters", []) if parameter["in"] == "header"}


def test_the_creating_calls_and_no_others_take_a_key(app: Litestar) -> None:
    calls = app.openapi_schema.to_schema()["paths"]
    taking = {(method, path) for path, ways in calls.items() for method, call in ways.items() if headers_of(call)}
    assert taking == {
        ("post", "/v3/assets/training_dataset"),
        ("post", "/v3/training/subject"),
        ("post", "/v3/training/style"),
        ("post", "/v3/async/txt2img"),
        ("post", "/v3/async/img2img"),
    }
    (key,) = calls["/v3/training/subject"]["post"]["parameters"]
    assert (key["name"], key["in"], key["required"]) == ("Idempotency-Key", "header", False)
    assert key["description"]
    assert (key["schema"]["minLength"], key["schema"]["maxLength"]) == (1, 255)
    assert "default" not in key["schema"]


async def test_every_documented_answer_names_the_envelope(app: Litestar) -> None:
    schema: dict[str, Any] = app.openapi_schema.to_schema()
    envelope = {"$ref": "#/components/schemas/ErrorBody"}
    keyed = [
        (path, call) for path, calls in schema["paths"].items() if path.startswith("/v3") for call in calls.values()
    ]
    assert len(keyed) == 20
    for path, call in keyed:
        assert call["security"] == [{"api-key": []}], path
        at_fault = {"500", "503"} & set(call["responses"])
        assert len(at_fault) == 1, path
        for status in {"400", "403", "404"} | at_fault:
            assert call["responses"][status]["content"]["application/json"]["schema"] == envelope, (path, status)
        assert ("422" in call["responses"]) == ("Idempotency-Key" in headers_of(call)), path
    assert list(schema["components"]["schemas"]["ErrorBody"]["properties"]) == ["code", "reason", "message", "metadata"]
