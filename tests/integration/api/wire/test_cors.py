"""Web pages of other origins: nothing for them unless the operator says so, then every call and every address."""

from urllib.parse import urlsplit

import httpx
import pytest
from litestar import Litestar, get
from msgspec.structs import replace
from structlog.testing import capture_logs

from maquette.core.errors import InvalidRequest
from maquette.db.engine import Database
from maquette.server.app import create_app
from maquette.server.settings import Settings, load_settings
from maquette.storage.base import Storage
from maquette.testing.api import Api, picture, reason

PAGE, OTHER_PAGE = "https://app.example", "https://evil.example"
ALLOWED = "Access-Control-Allow-Origin"
ASKED = "authorization, content-type, idempotency-key"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two origins may call."""
    return replace(settings, cors_origins=f"http://localhost:3000, {PAGE.upper()}")


async def ask(api: Api, method: str, path: str, origin: str = PAGE) -> httpx.Response:
    """What a browser asks before it sends a request with a key."""
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": ASKED}
    return await api.http.options(path, headers=asked)


def cors_headers(response: httpx.Response) -> list[str]:
    return [name for name in response.headers if name.startswith("access-control-")]


async def upload_path(api: Api) -> str:
    address = urlsplit((await api.asset())["upload_url"])
    return f"{address.path}?{address.query}"


async def test_a_browser_may_ask_before_each_kind_of_call(api: Api, drawn: str) -> None:
    calls = [
        ("POST", "/v3/assets/training_dataset"),
        ("PUT", await upload_path(api)),
        ("POST", "/v3/training/subject"),
        ("GET", "/v3/training?pagination.limit=5"),
        ("GET", "/training/subject?task_id=x"),
        ("POST", "/v3/async/txt2img"),
        ("GET", drawn),
        ("GET", "/v3/nope"),
    ]
    del api.http.headers["authorization"]
    for method, path in calls:
        response = await ask(api, method, path)
        assert response.is_success, path
        assert response.headers[ALLOWED] == PAGE
        assert method in response.headers["Access-Control-Allow-Methods"]
        assert set(ASKED.split(", ")) <= set(response.headers["Access-Control-Allow-Headers"].lower().split(", "))


async def test_answers_and_files_may_be_read(api: Api, drawn: str) -> None:
    api.http.headers["origin"] = PAGE
    headers = {"content-type": "application/json"}
    answers = [
        await api.http.get("/v3/training"),
        await api.http.put(await upload_path(api), content=picture(), headers=headers),
        await api.http.get(drawn),
    ]
    for response in answers:
        assert response.status_code == 200
        assert response.headers[ALLOWED] == PAGE
        assert response.headers["Vary"] == "Origin"
        assert response.headers["Access-Control-Expose-Headers"] == "Content-Disposition, Retry-After"


async def test_errors_may_be_read_whatever_they_are(api: Api, app: Litestar) -> None:
    @get("/broken")
    async def broken() -> None:
        raise RuntimeError

    app.register(broken)
    api.http.headers["origin"] = PAGE
    with capture_logs():
        answers = {
            reason(response): response.headers[ALLOWED]
            for response in (
                await api.http.post("/v3/training/subject", json={}),
                await api.http.get("/v3/training", headers={"authorization": "nonsense"}),
                await api.http.get("/nope"),
                await api.http.delete("/v3/training"),
                await api.http.put("/uploads/a/b.png", content=b"x"),
                await api.http.get("/broken"),
            )
        }
    assert answers == dict.fromkeys(
        [
            (400, "INVALID_REQUEST_BODY"),
            (403, "INVALID_API_KEY"),
            (404, "API_NOT_FOUND"),
            (405, "METHOD_NOT_ALLOWED"),
            (403, "UPLOAD_URL_INVALID"),
            (500, "INTERNAL_ERROR"),
        ],
        PAGE,
    )


@pytest.mark.parametrize("origin", [OTHER_PAGE, f"{PAGE}.evil.example", "http://app.example", "null", "*"])
async def test_pages_of_other_origins_are_allowed_nothing(api: Api, origin: str) -> None:
    assert ALLOWED not in (await ask(api, "GET", "/v3/training", origin)).headers
    assert ALLOWED not in (await api.http.get("/v3/training", headers={"origin": origin})).headers


async def test_by_default_no_page_is_allowed_anything(
    settings: Settings, database: Database, storage: Storage, api: Api
) -> None:
    closed = Api(create_app(replace(settings, cors_origins=""), database, storage), api.http.headers["authorization"])
    assert cors_headers(await ask(closed, "GET", "/v3/training")) == []
    assert cors_headers(await closed.http.get("/v3/training", headers={"origin": PAGE})) == []


async def test_every_page_may_be_allowed(settings: Settings, database: Database, storage: Storage, api: Api) -> None:
    public = Api(create_app(replace(settings, cors_origins="*"), database, storage), api.http.headers["authorization"])
    assert (await ask(public, "GET", "/v3/training", OTHER_PAGE)).headers[ALLOWED] == "*"
    assert (await public.http.get("/v3/training", headers={"origin": OTHER_PAGE})).headers[ALLOWED] == "*"


async def test_who_sends_no_origin_sees_no_difference(api: Api) -> None:
    assert cors_headers(await api.http.get("/v3/training")) == []


@pytest.mark.parametrize("value", ["app.example", "https://app.example/", "https://*.example", "*,https://app.example"])
def test_what_is_no_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(InvalidRequest, match="MAQUETTE_CORS_ORIGINS: can't be used"):
        load_settings({"MAQUETTE_CORS_ORIGINS": value})
