"""Which buckets a request may name: those that the operator has opened, and nothing in them that is not."""

from typing import Any

import msgspec
import pytest
from litestar import Litestar
from msgspec.structs import replace
from sqlalchemy import select

from maquette.core.errors import InvalidRequest
from maquette.core.image_specs import CopyTarget, ImageSpec
from maquette.db.engine import Database
from maquette.db.tables import image_tasks
from maquette.server.access import service as access
from maquette.server.app import create_app
from maquette.server.settings import Settings
from maquette.storage.base import Storage
from maquette.testing.api import Api, Traces, reason

OPENED = "s3://open, s3://shared/maquette/pictures/, first = s3://shared/of/first, second=s3://of-second"
ASKED = {"region": "us-east-2", "bucket": "open", "path": "/"}


@pytest.fixture
def opened(settings: Settings, database: Database, storage: Storage) -> Litestar:
    """The application of an operator who has opened a bucket, a folder in another, and some places to one tenant."""
    return create_app(replace(settings, custom_storage=OPENED), database, storage)


@pytest.fixture
def generous(api: Api, opened: Litestar) -> Api:
    """Its API as the first tenant uses it."""
    return Api(opened, api.http.headers["authorization"])


def elsewhere(**changes: Any) -> dict[str, Any]:
    return {"custom_storage": {"aws_s3": {**ASKED, **changes}}}


@pytest.mark.parametrize(
    ("changes", "bucket", "folder", "directly"),
    [
        ({}, "open", "", False),
        ({"path": None}, "open", "", False),
        ({"path": "a/b_c=1/"}, "open", "a/b_c=1", False),
        ({"path": "/a", "save_to_path_directly": True}, "open", "a", True),
        ({"bucket": "shared", "path": "/maquette/pictures"}, "shared", "maquette/pictures", False),
        ({"bucket": "shared", "path": "maquette/pictures/of/cats"}, "shared", "maquette/pictures/of/cats", False),
        ({"bucket": "shared", "path": "of/first"}, "shared", "of/first", False),
    ],
)
async def test_an_open_bucket_is_pinned(
    generous: Api, database: Database, changes: dict[str, Any], bucket: str, folder: str, directly: bool
) -> None:
    task_id = await generous.image_task(extra=elsewhere(**changes))
    async with database.read() as conn:
        row = (await conn.execute(select(image_tasks.c.spec).where(image_tasks.c.id == task_id))).one()
    pinned = msgspec.convert(row.spec, ImageSpec).copy_to
    assert pinned == CopyTarget(region="us-east-2", bucket=bucket, folder=folder, directly=directly)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bucket": "other"}, "bucket"),
        ({"bucket": "OPEN"}, "bucket"),
        ({"bucket": "of-second"}, "bucket"),
        ({"bucket": "shared", "path": "of"}, "path"),
        ({"bucket": "shared"}, "path"),
        ({"bucket": "shared", "path": "maquette"}, "path"),
        ({"bucket": "shared", "path": "maquette/pictures-of-others"}, "path"),
        ({"bucket": "shared", "path": "maquette/pictures/../others"}, "path"),
        ({"path": "a//b"}, "path"),
        ({"path": ".hidden"}, "path"),
        ({"path": "with space"}, "path"),
        ({"path": "ä"}, "path"),
    ],
)
async def test_what_is_not_open_is_no_output_path(
    generous: Api, traces: Traces, changes: dict[str, Any], field: str
) -> None:
    before = await traces.count()
    response = await generous.draw(extra=elsewhere(**changes))
    assert reason(response) == (400, "INVALID_CUSTOM_OUTPUT_PATH")
    assert response.json()["message"].startswith(f"extra.custom_storage.aws_s3.{field}: ")
    assert await traces.count() == before


async def test_a_place_of_one_tenants_is_open_to_no_other(api: Api, opened: Litestar, database: Database) -> None:
    async with database.write() as conn:
        second = Api(opened, f"Bearer {await access.create_key(conn, 'second')}")
    await second.image_task(extra=elsewhere(bucket="of-second"))
    await second.image_task(extra=elsewhere())
    refused = await second.draw(extra=elsewhere(bucket="shared", path="of/first"))
    assert reason(refused) == (400, "INVALID_CUSTOM_OUTPUT_PATH")
    assert refused.json()["message"] == (
        "extra.custom_storage.aws_s3.path: 'of/first' is not open here in the bucket 'shared'"
    )


async def test_where_only_anothers_places_are_open_there_is_no_output_path(
    settings: Settings, api: Api, database: Database, storage: Storage
) -> None:
    app = create_app(replace(settings, custom_storage="second=s3://of-second"), database, storage)
    refused = await Api(app, api.http.headers["authorization"]).draw(extra=elsewhere(bucket="of-second"))
    assert reason(refused) == (400, "INVALID_CUSTOM_OUTPUT_PATH")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"region": "evil.example/#"}, "region: must be a region of S3, such as us-east-2"),
        ({"region": "us-east-2.evil.example"}, "region: must be a region of S3"),
        ({"region": None}, "region: is required"),
        ({"bucket": None}, "bucket: is required"),
        ({"bucket": 5}, "bucket: must be a string"),
        ({"save_to_path_directly": "maybe"}, "save_to_path_directly: must be true or false"),
    ],
)
async def test_what_is_no_place_at_all_breaks_its_fields_rule(
    generous: Api, changes: dict[str, Any], words: str
) -> None:
    response = await generous.draw(extra=elsewhere(**changes))
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(f"extra.custom_storage.aws_s3.{words}")


@pytest.mark.parametrize(
    "aws_s3", [{}, {"region": "", "bucket": "", "path": ""}, {"region": "", "save_to_path_directly": False}]
)
async def test_an_empty_place_is_none(api: Api, aws_s3: dict[str, Any]) -> None:
    assert (await api.draw(extra={"custom_storage": {"aws_s3": aws_s3}})).status_code == 200


@pytest.mark.parametrize(
    "words",
    ["open", "s3://", "s3://a/../b", "https://open.s3.amazonaws.com", "s3://UPPER", "=s3://open", "first s3://open"],
)
def test_an_operator_who_misspells_a_bucket_is_told(settings: Settings, words: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^MAQUETTE_CUSTOM_STORAGE: can't be used: "):
        _ = replace(settings, custom_storage=words).opened_buckets
