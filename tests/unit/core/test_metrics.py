from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.core.metrics import (
    BLOCK_STEPS,
    RECENT_LOSSES,
    MetricsBlock,
    ValidationPoint,
    first_step_of_block,
    last_told,
    standing,
    thinned,
    thinned_validation,
)
from maquette.core.progress import Step


@given(st.integers(1, 100_000))
def test_a_block_begins_at_or_before_its_steps(step: int) -> None:
    first = first_step_of_block(step)
    assert first <= step < first + BLOCK_STEPS
    assert (first - 1) % BLOCK_STEPS == 0


def put(block: MetricsBlock, *steps: int, loss: float) -> None:
    for step in steps:
        said = Step(at=1.0, step=step, total_steps=300, loss=loss, lr=1e-4, seconds=0.1, grad_norm=0.5, peak_bytes=7)
        block.put(said)


def test_a_resumed_run_overwrites_what_came_after_its_checkpoint() -> None:
    block = MetricsBlock(first_step=257)
    put(block, 257, 258, 259, loss=1.0)
    assert block.last_step == 259
    put(block, 258, loss=2.0)
    assert block.loss == [1.0, 2.0]
    assert block.lr == [1e-4] * 2
    assert block.last_step == 258
    assert (block.grad_norm, block.peak_bytes) == ([0.5] * 2, [7] * 2)


def test_a_block_of_an_older_server_is_gone_on_with() -> None:
    block = MetricsBlock(first_step=1, loss=[0.5, 0.4], lr=[1e-4] * 2, seconds=[0.1] * 2)
    put(block, 3, loss=0.3)
    assert (block.loss, block.grad_norm) == ([0.5, 0.4, 0.3], [0, 0, 0.5])


def test_an_empty_block_ends_before_its_first_step() -> None:
    assert MetricsBlock(first_step=1).last_step == 0


def blocks(steps: int) -> list[MetricsBlock]:
    """A run whose loss is the number of the step, at four steps a second."""
    made: dict[int, MetricsBlock] = {}
    for step in range(1, steps + 1):
        first = first_step_of_block(step)
        said = Step(at=1.0, step=step, total_steps=steps, loss=step, lr=1 / step, seconds=0.25, grad_norm=step)
        made.setdefault(first, MetricsBlock(first_step=first)).put(said)
    return list(made.values())


@given(st.integers(0, 3 * BLOCK_STEPS), st.integers(1, 500))
def test_a_curve_has_few_points_at_even_distances_and_leaves_no_step_out(steps: int, points: int) -> None:
    found = thinned(blocks(steps), points)
    assert len(found) <= points
    ends = [0, *(point.step for point in found)]
    distances = [end - begin for begin, end in pairwise(ends)]
    assert sum(distances) == steps
    assert len(set(distances[:-1])) <= 1
    total = sum(point.loss * distance for point, distance in zip(found, distances, strict=True))
    assert total == pytest.approx(steps * (steps + 1) / 2)


def test_a_point_tells_of_the_steps_since_the_one_before() -> None:
    first, second = thinned(blocks(7), 2)
    assert (first.step, first.loss, first.grad_norm, first.lr) == (4, 2.5, 2.5, 1 / 4)
    assert (second.step, second.loss, second.grad_norm, second.lr) == (7, 6.0, 6.0, 1 / 7)
    assert first.steps_per_second == second.steps_per_second == 4.0


def test_the_moving_average_is_of_the_last_steps_or_of_all_so_far() -> None:
    averages = {point.step: point.loss_average for point in thinned(blocks(300), 300)}
    assert (averages[1], averages[3]) == (1.0, 2.0)
    assert averages[RECENT_LOSSES] == (1 + RECENT_LOSSES) / 2
    assert averages[300] == (300 + 300 - RECENT_LOSSES + 1) / 2


@pytest.mark.parametrize(
    ("steps", "mean"), [(1, 1.0), (3, 2.0), (RECENT_LOSSES, 25.5), (260, 235.5), (BLOCK_STEPS + RECENT_LOSSES, 281.5)]
)
def test_where_a_run_stands_is_told_by_its_last_steps(steps: int, mean: float) -> None:
    point = standing(blocks(steps)[-2:])
    assert point is not None
    assert (point.step, point.lr, point.steps_per_second) == (steps, 1 / steps, 4.0)
    assert point.loss == point.loss_average == mean


def test_before_its_first_step_a_run_stands_nowhere() -> None:
    assert standing([]) is None


def test_what_an_older_server_did_not_store_is_zero() -> None:
    older = MetricsBlock(first_step=1, loss=[0.5, 0.25], lr=[1e-4] * 2, seconds=[0.0] * 2)
    (point,) = thinned([older, MetricsBlock(first_step=3, loss=[0.75], lr=[1e-4], seconds=[0.0], grad_norm=[3.0])], 1)
    assert (point.step, point.loss, point.grad_norm, point.peak_bytes, point.steps_per_second) == (3, 0.5, 1.0, 0, 0.0)


def test_validation_that_was_measured_anew_gives_way() -> None:
    told = [ValidationPoint(step, loss) for step, loss in ((0, 4.0), (5, 3.0), (10, 9.0), (5, 3.5), (10, 2.0))]
    assert [(point.step, point.loss) for point in last_told(told)] == [(0, 4.0), (5, 3.5), (10, 2.0)]
    assert last_told([]) == []


@given(st.integers(0, 300), st.integers(1, 500))
def test_validation_is_thinned_at_even_distances_and_ends_with_the_newest(measured: int, points: int) -> None:
    held = [ValidationPoint(step, 1.0) for step in range(1, measured + 1)]
    found = [point.step for point in thinned_validation(held, points)]
    assert len(found) <= points
    assert found[-1:] == [point.step for point in held[-1:]]
    assert len({end - begin for begin, end in pairwise(found)}) <= 1
    assert len(found) == measured or len(found) > points / 2


def test_validation_that_is_few_is_told_whole() -> None:
    held = [ValidationPoint(0, 4.0), ValidationPoint(5, 3.0)]
    assert thinned_validation(held, 2) == held
    assert thinned_validation(held, 1) == held[1:]
    assert thinned_validation([], 1) == []
