"""Uploads: an address, then bytes that are checked as they arrive."""

import hashlib
import re
from collections.abc import AsyncGenerator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from msgspec.structs import replace
from sqlalchemy import select

from maquette.db.engine import Database
from maquette.db.tables import assets
from maquette.server.app import create_app
from maquette.server.settings import Settings
from maquette.server.signing import open_signer
from maquette.storage.base import Storage
from maquette.testing.api import HOST, Api, Traces, picture, reason


async def row(database: Database, asset_id: str) -> dict[str, object]:
    async with database.read() as conn:
        return dict((await conn.execute(select(assets).where(assets.c.id == asset_id))).mappings().one())


async def test_the_published_answer(api: Api) -> None:
    response = await api.http.post("/v3/assets/training_dataset", json={"file_extension": "jpeg"})
    body = response.json()
    assert list(body) == ["assets_id", "upload_url", "method", "headers"]
    assert re.fullmatch("[0-9a-f]{32}", body["assets_id"])
    url = urlsplit(body["upload_url"])
    assert f"{url.scheme}://{url.netloc}" == HOST
    assert url.path.endswith(f"/{body['assets_id']}.jpeg")
    assert list(parse_qs(url.query)) == ["expires", "signature"]
    assert body["method"] == "PUT"
    assert body["headers"] == {"Host": {"values": ["maquette.test"]}}


@pytest.mark.parametrize(
    ("sent", "extension"),
    [("png", "png"), ("webp", "webp"), ("jpeg", "jpeg"), ("jpg", "jpeg"), ("JPG", "jpeg"), (".Png", "png")],
)
async def test_extensions_are_taken_as_files_have_them(api: Api, sent: str, extension: str) -> None:
    asset = await api.asset(sent)
    assert urlsplit(asset["upload_url"]).path.endswith(f".{extension}")


@pytest.mark.parametrize("body", [{"file_extension": "gif"}, {"file_extension": 3}, {"file_extension": None}, {}, []])
async def test_other_extensions_are_refused(api: Api, traces: Traces, body: object) -> None:
    before = await traces.count()
    response = await api.http.post("/v3/assets/training_dataset", json=body)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert await traces.count() == before


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_the_row_tells_what_arrived(api: Api, database: Database, storage: Storage, kind: str) -> None:
    data = picture(kind, (70, 50))
    asset_id = await api.upload(data, extension="png")
    stored = await row(database, asset_id)
    assert (stored["format"], stored["width"], stored["height"], stored["size"]) == (kind, 70, 50, len(data))
    assert stored["sha256"] == hashlib.sha256(data).hexdigest()
    assert await storage.get(str(stored["upload_key"])) == data


async def test_headers_on_the_upload_are_ignored(api: Api) -> None:
    asset = await api.asset()
    headers = {"authorization": "Bearer nonsense", "content-type": "application/json"}
    response = await api.http.put(asset["upload_url"], content=picture(), headers=headers)
    assert (response.status_code, response.content) == (200, b"")


async def test_a_second_upload_replaces_the_first(
    api: Api, database: Database, storage: Storage, traces: Traces
) -> None:
    asset = await api.asset()
    before = await traces.count()
    for colour in ("red", "green", "blue"):
        response = await api.http.put(asset["upload_url"], content=picture(colour=colour))
        assert response.status_code == 200
    stored = await row(database, asset["assets_id"])
    assert await storage.get(str(stored["upload_key"])) == picture(colour="blue")
    assert await traces.count() == {**before, "objects": before["objects"] + 1}


BAD_PICTURES = {
    "nothing": (b"", "INVALID_IMAGE_FORMAT"),
    "text": (b"I am a text file named .png\n" * 50, "INVALID_IMAGE_FORMAT"),
    "truncated jpeg": (picture("jpeg", (200, 200))[:-200], "INVALID_IMAGE_FORMAT"),
    "truncated png": (picture("png", (200, 200))[:-5], "INVALID_IMAGE_FORMAT"),
    "truncated webp": (picture("webp", (200, 200))[:-5], "INVALID_IMAGE_FORMAT"),
    "gif": (picture("gif"), "INVALID_IMAGE_FORMAT"),
    "too many bytes": (picture() + bytes(100_000), "IMAGE_FILE_EXCEEDS_MAX_SIZE"),
    "too many pixels": (picture("png", (500, 401)), "IMAGE_EXCEEDS_MAX_RESOLUTION"),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Limits that small pictures can break."""
    return replace(settings, max_upload_bytes=50_000, max_pixels=200_000)


@pytest.mark.parametrize("case", BAD_PICTURES)
async def test_bad_pictures_are_refused_and_leave_nothing(
    api: Api, database: Database, traces: Traces, case: str
) -> None:
    data, expected = BAD_PICTURES[case]
    asset = await api.asset()
    before = await traces.count()
    response = await api.http.put(asset["upload_url"], content=data)
    assert reason(response) == (400, expected)
    assert await traces.count() == before
    assert (await row(database, asset["assets_id"]))["upload_key"] is None


async def test_a_bad_picture_leaves_the_good_one_before_it(api: Api, database: Database, storage: Storage) -> None:
    asset = await api.asset()
    await api.http.put(asset["upload_url"], content=picture())
    response = await api.http.put(asset["upload_url"], content=b"no picture")
    assert response.status_code == 400
    stored = await row(database, asset["assets_id"])
    assert await storage.get(str(stored["upload_key"])) == picture()


async def test_limits_are_named(api: Api) -> None:
    asset = await api.asset()
    response = await api.http.put(asset["upload_url"], content=BAD_PICTURES["too many bytes"][0])
    assert "larger than 50000 bytes" in response.json()["message"]
    response = await api.http.put(asset["upload_url"], content=BAD_PICTURES["too many pixels"][0])
    assert "500x401 pixels; at most 200000" in response.json()["message"]


async def test_an_address_expires_by_the_databases_clock(api: Api, database: Database, traces: Traces) -> None:
    asset = await api.asset()
    database.clock.shift(590)
    assert (await api.http.put(asset["upload_url"], content=picture())).status_code == 200
    before = await traces.count()
    database.clock.shift(11)
    response = await api.http.put(asset["upload_url"], content=picture(colour="blue"))
    assert reason(response) == (403, "UPLOAD_URL_EXPIRED")
    assert await traces.count() == before


async def test_an_upload_that_ends_long_after_its_address_expired_is_refused(
    api: Api, database: Database, traces: Traces
) -> None:
    asset = await api.asset()
    before = await traces.count()

    async def slowly(seconds: float) -> AsyncGenerator[bytes]:
        data = picture()
        yield data[:10]
        database.clock.shift(seconds)
        yield data[10:]

    response = await api.http.put(asset["upload_url"], content=slowly(600 + 1801))
    assert reason(response) == (403, "UPLOAD_URL_EXPIRED")
    assert await traces.count() == before
    other = await api.asset()
    assert (await api.http.put(other["upload_url"], content=slowly(600 + 1700))).status_code == 200


async def test_an_altered_address_is_refused(api: Api, stranger: Api, traces: Traces) -> None:
    url = (await api.asset())["upload_url"]
    other = (await stranger.asset())["upload_url"]
    altered = [
        url.replace("expires=", "expires=9"),
        url.replace("expires=", "expires=-"),
        re.sub(r"expires=\d+", "expires=soon", url),
        re.sub(r"expires=\d+&", "", url),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        re.sub(r"signature=\w+", "signature=\u00e9", url),
        url.replace(".png?", ".jpeg?"),
        url.partition("?")[0],
        other.partition("?")[0] + "?" + url.partition("?")[2],
        re.sub(r"/\w+\.png", "/0123456789abcdef0123456789abcdef.png", url),
    ]
    before = await traces.count()
    for address in altered:
        response = await api.http.put(address, content=picture())
        assert reason(response) == (403, "UPLOAD_URL_INVALID"), address
    assert await traces.count() == before


async def test_the_secret_outlives_the_server(
    api: Api, settings: Settings, database: Database, storage: Storage
) -> None:
    asset = await api.asset()
    again = Api(create_app(settings, database, storage), "no key")
    assert (await again.http.put(asset["upload_url"], content=picture())).status_code == 200
    assert (settings.data_dir / "signing-secret").stat().st_mode & 0o077 == 0


async def test_a_set_secret_is_used_and_nothing_is_kept(settings: Settings) -> None:
    ours = open_signer(replace(settings, signing_secret="s" * 32))
    theirs = open_signer(replace(settings, signing_secret="t" * 32))
    assert ours.sign("PUT", "/x", 1) != theirs.sign("PUT", "/x", 1)
    assert not (settings.data_dir / "signing-secret").exists()


async def test_addresses_begin_with_the_public_url(
    settings: Settings, database: Database, storage: Storage, api: Api
) -> None:
    public = replace(settings, public_url="https://pictures.example/maquette/")
    app = create_app(public, database, storage)
    abroad = Api(app, api.http.headers["authorization"])
    asset = await abroad.asset()
    assert asset["upload_url"].startswith("https://pictures.example/maquette/uploads/")
    assert asset["headers"] == {"Host": {"values": ["pictures.example"]}}
    behind_the_proxy = httpx.URL(asset["upload_url"].replace("https://pictures.example/maquette", HOST))
    assert (await abroad.http.put(behind_the_proxy, content=picture())).status_code == 200
