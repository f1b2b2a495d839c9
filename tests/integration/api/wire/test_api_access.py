"""Who may call what."""

import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from maquette.db.engine import Database
from maquette.server.access import service as access
from maquette.testing.api import Api, reason

ID = "3c6f9d1e-1111-4222-8333-444455556666"
OPEN, SIGNED, KEY = "open", "signed", "key"

KEYED = {
    ("POST", "/assets/training_dataset"): KEY,
    ("POST", "/training/subject"): KEY,
    ("POST", "/training/style"): KEY,
    ("GET", "/training/subject"): KEY,
    ("GET", "/training/style"): KEY,
    ("GET", "/training"): KEY,
    ("GET", "/training/{task_id:str}"): KEY,
    ("POST", "/training/{task_id:str}/cancel"): KEY,
    ("GET", "/training/{task_id:str}/events"): KEY,
    ("GET", "/training/{task_id:str}/metrics"): KEY,
    ("GET", "/training/{task_id:str}/weights"): KEY,
    ("GET", "/training/{task_id:str}/checkpoints"): KEY,
    ("GET", "/training/{task_id:str}/checkpoints/{step:int}/weights"): KEY,
    ("GET", "/training/{task_id:str}/checkpoints/{step:int}/samples/{index:int}"): KEY,
    ("POST", "/async/txt2img"): KEY,
    ("POST", "/async/img2img"): KEY,
    ("GET", "/async/task-result"): KEY,
    ("GET", "/model"): KEY,
    ("GET", "/user"): KEY,
    ("GET", "/user/balance"): KEY,
}
MATRIX = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("PUT", "/uploads/{owner:str}/{name:str}"): SIGNED,
    ("GET", "/images/{owner:str}/{task_id:str}/{attempt:str}/{name:str}"): SIGNED,
    ("GET", "/models/{owner:str}/{name:str}"): SIGNED,
    **KEYED,
    **{(method, f"/v3{path}"): permission for (method, path), permission in KEYED.items()},
}
"""Every route there is, and what it asks for."""


def routes(app: Litestar) -> set[tuple[str, str]]:
    return {
        (method, route.path)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
        if method != "OPTIONS"
    }


def test_every_route_has_a_row(app: Litestar) -> None:
    assert routes(app) == set(MATRIX)


@pytest.mark.parametrize(("method", "path"), [call for call, permission in MATRIX.items() if permission == KEY])
async def test_without_a_key_nothing_is_told(api: Api, method: str, path: str) -> None:
    del api.http.headers["authorization"]
    called = path.replace("{task_id:str}", ID).replace("{step:int}", "4").replace("{index:int}", "0")
    response = await api.http.request(method, called)
    assert reason(response) == (403, "INVALID_API_KEY")


async def test_an_upload_needs_a_signature_and_no_key(api: Api) -> None:
    response = await api.http.put("/uploads/0123/4567.png", content=b"x")
    assert reason(response) == (403, "UPLOAD_URL_INVALID")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
async def test_open_routes_ask_for_nothing(api: Api, path: str) -> None:
    del api.http.headers["authorization"]
    assert (await api.http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "form",
    ["Bearer {}", "bearer {}", "BEARER   {}", "Bearer{}", "{}", " {} ", "Bearer {};", "{};", "Bearer {} ; "],
)
async def test_a_key_is_read_as_clients_send_it(api: Api, form: str) -> None:
    key = api.http.headers["authorization"].removeprefix("Bearer ")
    response = await api.http.get("/v3/training", headers={"authorization": form.format(key)})
    assert response.status_code == 200


async def test_missing_mistyped_wrong_and_revoked_keys_read_the_same(api: Api, database: Database) -> None:
    key = api.http.headers["authorization"].removeprefix("Bearer ")
    async with database.write() as conn:
        revoked = await access.create_key(conn, "third")
        assert await access.revoke_key(conn, revoked)
        wrong = await access.create_key(conn, "third")
    mistyped = key[:-1] + ("0" if key[-1] != "0" else "1")
    unknown = f"mq_{wrong[3:19]}{key[19:51]}{key[51:]}"
    headers = ["", "Bearer", "Bearer ", "nonsense", mistyped, unknown, revoked, "Bearer \u00e9"]
    del api.http.headers["authorization"]
    answers = {(await api.http.get("/v3/training")).content}
    for header in headers:
        answers.add((await api.http.get("/v3/training", headers=[(b"authorization", header.encode())])).content)
    assert answers == {b'{"code":403,"reason":"INVALID_API_KEY","message":"invalid api-key","metadata":{}}'}


async def test_revocation_holds_from_the_next_request_on(api: Api, database: Database) -> None:
    assert (await api.http.get("/v3/training")).status_code == 200
    async with database.write() as conn:
        (info,) = [info for info in await access.list_keys(conn) if info.tenant == "first"]
        assert info.revoked_at is None
        assert await access.revoke_key(conn, info.lookup)
        assert not await access.revoke_key(conn, info.lookup)
    assert reason(await api.http.get("/v3/training")) == (403, "INVALID_API_KEY")


async def test_two_keys_of_one_name_belong_to_one_tenant(api: Api, database: Database) -> None:
    task_id = await api.task()
    async with database.write() as conn:
        api.http.headers["authorization"] = await access.create_key(conn, "first")
    tasks = (await api.http.get("/v3/training")).json()["tasks"]
    assert [task["task_id"] for task in tasks] == [task_id]


async def test_the_secret_is_stored_nowhere(api: Api, database: Database) -> None:
    key = api.http.headers["authorization"].removeprefix("Bearer ")
    async with database.read() as conn:
        rows = (await conn.exec_driver_sql("SELECT * FROM api_keys")).all()
    assert key[3:19] in str(rows)
    assert key[19:51] not in str(rows)
