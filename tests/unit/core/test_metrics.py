from hypothesis import given
from hypothesis import strategies as st

from maquette.core.metrics import BLOCK_STEPS, MetricsBlock, first_step_of_block
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
