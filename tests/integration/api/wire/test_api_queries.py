"""Queries that are refused."""

import pytest

from maquette.testing.api import Api, reason

BAD_LIMITS = ("0", "-1", "101", "abc", "1.5", "0x10", "1 0", "%D9%A3", "9" * 400, "005", "+5", "null")
BAD_CURSORS = (
    "10",
    "c_",
    "c_x",
    "c_-1",
    "c_1.5",
    "c_c_c_1",
    "x_1",
    "c_ 1",
    "c_%D9%A3",
    "c_0123456789012345",
    "c_" + "9" * 17,
)


@pytest.mark.parametrize("limit", BAD_LIMITS)
@pytest.mark.parametrize("key", ["pagination.limit", "pagination[limit]", "pagination%5Blimit%5D"])
async def test_a_bad_limit_is_refused_and_never_clamped(api: Api, key: str, limit: str) -> None:
    response = await api.http.get(f"/v3/training?{key}={limit}")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith("pagination.limit: must be a whole number between 1 and 100, got ")


@pytest.mark.parametrize("cursor", BAD_CURSORS)
async def test_a_malformed_cursor_is_refused(api: Api, cursor: str) -> None:
    response = await api.http.get(f"/v3/training?pagination.cursor={cursor}")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith("pagination.cursor: must be empty, the next_cursor")


@pytest.mark.parametrize("task_type", ["person", "SUBJECT", "subject,style", "null", "None"])
async def test_an_unknown_type_is_refused(api: Api, task_type: str) -> None:
    response = await api.http.get(f"/v3/training?task_type={task_type}")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == f'task_type: must be one of subject, style, got "{task_type}"'


async def test_task_id_is_required(api: Api) -> None:
    for query in ("", "?task_id="):
        response = await api.http.get(f"/v3/training/subject{query}")
        assert reason(response) == (400, "INVALID_REQUEST_BODY")
        assert response.json()["message"] == "task_id: is required; it must be a string"


@pytest.mark.parametrize("limit", ["5", "5.0", "5e0"])
async def test_a_limit_is_written_like_any_number(api: Api, limit: str) -> None:
    assert (await api.http.get(f"/v3/training?pagination.limit={limit}")).status_code == 200


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("pagination.limit=5&pagination.limit=6", "pagination.limit"),
        ("pagination.limit=5&pagination.limit=5", "pagination.limit"),
        ("pagination.limit=5&pagination[limit]=6", "pagination.limit"),
        ("task_type=style&x=1&task_type=subject", "task_type"),
    ],
)
async def test_a_repeated_parameter_is_refused(api: Api, query: str, name: str) -> None:
    response = await api.http.get(f"/v3/training?{query}")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == f"{name}: must be given once, got it 2 times"


@pytest.mark.parametrize("query", ["x=1&x=2", "pagination.limit=&pagination.limit=5"])
async def test_what_nobody_reads_may_come_twice(api: Api, query: str) -> None:
    assert (await api.http.get(f"/v3/training?{query}")).status_code == 200
