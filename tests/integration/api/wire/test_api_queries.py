"""Queries that are refused."""

import pytest

from maquette.testing.api import Api, reason

BAD_LIMITS = ("0", "-1", "101", "abc", "1.5", "0x10", "1 0", "%D9%A3", "9" * 400)
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


@pytest.mark.parametrize("task_type", ["person", "SUBJECT", "subject,style"])
async def test_an_unknown_type_is_refused(api: Api, task_type: str) -> None:
    response = await api.http.get(f"/v3/training?task_type={task_type}")
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == f'task_type: must be one of subject, style, got "{task_type}"'


async def test_task_id_is_required(api: Api) -> None:
    for query in ("", "?task_id="):
        response = await api.http.get(f"/v3/training/subject{query}")
        assert reason(response) == (400, "INVALID_REQUEST_BODY")
        assert response.json()["message"] == "task_id: is required; it must be a string"
