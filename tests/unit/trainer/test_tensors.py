from pathlib import Path

import pytest
import torch

from maquette.core.weights import read_header
from maquette.trainer.randomness import Randomness, derive, generator
from maquette.trainer.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.torch

METADATA = {name: name.upper() for name in "qwertyuiopasdfgh"}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16)}
    contents: set[bytes] = set()
    for number in range(6):
        path = tmp_path / str(number)
        write_tensors(path, dict(reversed(tensors.items())) if number % 2 else tensors, METADATA)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tensors = {"strided": torch.arange(6.0).view(2, 3).T, "empty": torch.zeros(0, dtype=torch.int64)}
    write_tensors(tmp_path / "t", tensors, {"ä": "ö"})
    header = read_header(tmp_path / "t")
    assert header.metadata == {"ä": "ö"}
    assert {name: info.shape for name, info in header.tensors.items()} == {"strided": (3, 2), "empty": (0,)}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(tmp_path / "t").items())


def test_a_file_may_hold_nothing(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", {}, {})
    assert read_header(tmp_path / "t").tensors == read_tensors(tmp_path / "t") == {}


def test_each_purpose_has_its_own_stream() -> None:
    assert len({derive(seed, purpose) for seed in (1, 2) for purpose in ("noise", "instances", "classes")}) == 6
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))


def test_every_source_goes_on_where_it_was() -> None:
    def draw(randomness: Randomness) -> list[float]:
        orders = randomness.instances.take(4) + randomness.classes.take(3)
        return [*orders, *torch.rand(2, generator=randomness.noise).tolist(), *torch.rand(2).tolist()]

    first = Randomness(7, 5, 2, torch.device("cpu"))
    draw(first)
    state = first.tensors()
    expected = draw(first)
    second = Randomness(8, 5, 2, torch.device("cpu"))
    second.restore(state)
    assert draw(second) == expected
