"""How a training goes, as its owner asks for it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from maquette.core.lifecycle import TaskStatus
from maquette.core.metrics import BLOCK_STEPS, MAX_POINTS, RECENT_LOSSES
from maquette.core.progress import Step, TrainerMessage, Validated
from maquette.db.engine import Database
from maquette.server.access.repository import tenant_id
from maquette.server.loops import progress, watch
from maquette.server.loops.attempts import OpenAttempt
from maquette.testing.api import Api, reason
from maquette.testing.factories import make_task

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics.json"


def step(number: int, loss: float, *, seconds: float = 0.25, lr: float = 1e-4) -> Step:
    return Step(
        at=1.0,
        step=number,
        total_steps=3,
        loss=loss,
        lr=lr,
        seconds=seconds,
        grad_norm=number / 2,
        peak_bytes=1000 * number,
    )


async def begin(database: Database) -> OpenAttempt:
    """A task that trains."""
    async with database.write() as conn:
        owner = await tenant_id(conn, "first")
        task_id = await make_task(conn, owner, status=TaskStatus.TRAINING)
    return OpenAttempt(
        task_id=task_id,
        fence=1,
        tenant_id=owner,
        device="cpu",
        handle="handle",
        launched=True,
        message_offset=0,
        reason=None,
        message="",
        cancel_requested=False,
        age=0.0,
    )


async def hear(database: Database, attempt: OpenAttempt, *messages: TrainerMessage) -> None:
    """What a server writes down when a trainer says this."""
    async with database.write() as conn:
        await progress.record(conn, attempt, [said for said in messages if isinstance(said, Step)])
        await watch.tell(conn, attempt, messages)


def losses(points: Sequence[dict[str, float]]) -> list[float]:
    return [point["loss"] for point in points]


async def test_a_curve_is_answered_as_pinned(api: Api, database: Database) -> None:
    attempt = await begin(database)
    first = Validated(at=1.0, step=0, loss=0.5)
    await hear(database, attempt, first, step(1, 0.25), step(2, 0.125), Validated(at=1.0, step=2, loss=0.25))
    await hear(database, attempt, step(3, 0.0625, seconds=0.5, lr=5e-5))
    response = await api.http.get(f"/v3/training/{attempt.task_id}/metrics", params={"points": 2})
    assert response.status_code == 200
    assert response.json() == json.loads(GOLDEN.read_bytes())
    assert list(response.json()["points"][0]) == list(json.loads(GOLDEN.read_bytes())["points"][0])


async def test_a_task_that_has_measured_nothing_has_an_empty_curve(api: Api) -> None:
    response = await api.http.get(f"/v3/training/{await api.task()}/metrics")
    assert (response.status_code, response.json()) == (200, {"points": [], "validation": []})


async def test_a_task_in_detail_tells_how_its_last_steps_went(api: Api, database: Database) -> None:
    attempt = await begin(database)
    url = f"/v3/training/{attempt.task_id}"
    assert "metrics" not in (await api.http.get(url)).json()
    steps = 2 * BLOCK_STEPS + 10
    await hear(database, attempt, *(step(number, float(number), seconds=0.5) for number in range(1, steps + 1)))
    told = (await api.http.get(url)).json()["metrics"]
    assert (told["step"], told["steps_per_second"], told["peak_bytes"]) == (steps, 2.0, 1000 * steps)
    assert told["loss"] == told["loss_average"] == steps - (RECENT_LOSSES - 1) / 2


async def test_a_long_run_is_thinned_over_its_blocks(api: Api, database: Database) -> None:
    attempt = await begin(database)
    steps = 3 * BLOCK_STEPS
    await hear(database, attempt, *(step(number, float(number)) for number in range(1, steps + 1)))
    url = f"/v3/training/{attempt.task_id}/metrics"
    points = (await api.http.get(url)).json()["points"]
    assert len(points) == steps / 2 <= MAX_POINTS
    assert [(point["step"], point["loss"]) for point in (points[0], points[-1])] == [(2, 1.5), (steps, steps - 0.5)]
    (whole,) = (await api.http.get(url, params={"points": 1})).json()["points"]
    assert (whole["step"], whole["loss"]) == (steps, (steps + 1) / 2)


async def test_validation_is_thinned_as_the_steps_are(api: Api, database: Database) -> None:
    attempt = await begin(database)
    await hear(database, attempt, *(Validated(at=1.0, step=step, loss=0.5) for step in range(8)))
    url = f"/v3/training/{attempt.task_id}/metrics"
    validation = (await api.http.get(url, params={"points": 3})).json()["validation"]
    assert [point["step"] for point in validation] == [1, 4, 7]


async def test_what_a_resumed_run_measures_anew_takes_the_place_of_the_old(api: Api, database: Database) -> None:
    attempt = await begin(database)
    await hear(database, attempt, *(step(number, 1.0) for number in (1, 2, 3)), Validated(at=1.0, step=3, loss=1.0))
    await hear(database, attempt, step(2, 0.5), Validated(at=1.0, step=2, loss=0.5))
    curve = (await api.http.get(f"/v3/training/{attempt.task_id}/metrics")).json()
    assert losses(curve["points"]) == [1.0, 0.5]
    assert curve["validation"] == [{"step": 2, "loss": 0.5}]


async def test_a_run_that_steps_back_over_a_block_between_two_polls_ends_where_it_stands(
    api: Api, database: Database
) -> None:
    attempt = await begin(database)
    await hear(database, attempt, *(step(number, 1.0) for number in range(1, BLOCK_STEPS + 10)))
    told = (BLOCK_STEPS + 10, BLOCK_STEPS + 11, BLOCK_STEPS - 50, BLOCK_STEPS - 49)
    await hear(database, attempt, *(step(number, 0.5) for number in told))
    url = f"/v3/training/{attempt.task_id}"
    points = (await api.http.get(f"{url}/metrics")).json()["points"]
    assert [point["step"] for point in points] == list(range(1, BLOCK_STEPS - 48))
    assert losses(points)[-3:] == [1.0, 0.5, 0.5]
    assert (await api.http.get(url)).json()["metrics"]["step"] == BLOCK_STEPS - 49


@pytest.mark.parametrize("points", ["0", "-1", str(MAX_POINTS + 1), "1.5", "many"])
async def test_other_numbers_of_points_are_refused(api: Api, points: str) -> None:
    response = await api.http.get(f"/v3/training/{await api.task()}/metrics", params={"points": points})
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(f"points: must be a whole number between 1 and {MAX_POINTS}, got ")
