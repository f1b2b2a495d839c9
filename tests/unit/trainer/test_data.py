import pytest
import torch

from maquette.trainer.data import Shuffle

pytestmark = pytest.mark.torch


def test_a_shuffle_takes_every_row_once_a_round() -> None:
    shuffle = Shuffle(5, torch.Generator().manual_seed(1))
    rounds = [shuffle.take(5) for _ in range(3)]
    assert all(sorted(rows) == list(range(5)) for rows in rounds)
    assert len({tuple(rows) for rows in rounds}) > 1


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    shuffle = Shuffle(1, torch.Generator().manual_seed(1))
    assert shuffle.take(4) == [0, 0, 0, 0]


def test_batches_cross_from_one_round_to_the_next() -> None:
    shuffle = Shuffle(3, torch.Generator().manual_seed(1))
    rows = [row for _ in range(3) for row in shuffle.take(2)]
    assert sorted(rows[:3]) == sorted(rows[3:]) == [0, 1, 2]


SIZES = ["wide", "square", "wide", "tall", "square", "wide", "square"]


def test_a_batch_is_of_one_size_and_every_row_comes_equally_often() -> None:
    shuffle = Shuffle(len(SIZES), torch.Generator().manual_seed(1))
    batches = [shuffle.take_alike(4, SIZES.__getitem__) for _ in range(700)]
    assert all(len(batch) == 4 and len({SIZES[row] for row in batch}) == 1 for batch in batches)
    shown = [sum(batch.count(row) for batch in batches) for row in range(len(SIZES))]
    # 400 times each; the lone tall one, of which a batch takes four rounds' turns, may be those ahead.
    assert all(abs(times - 400) <= 4 for times in shown)
    assert len(shuffle.waiting) <= 4 * len(SIZES)


def test_of_one_size_or_one_at_a_time_a_batch_is_what_comes_next() -> None:
    plain, alike, single = (Shuffle(len(SIZES), torch.Generator().manual_seed(1)) for _ in range(3))
    taken = plain.take(12)
    assert [row for _ in range(4) for row in alike.take_alike(3, lambda _: "square")] == taken
    assert [row for _ in range(12) for row in single.take_alike(1, SIZES.__getitem__)] == taken
