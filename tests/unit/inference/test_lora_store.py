"""LoRAs in host memory: what is kept, what goes, and that it is gone."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from maquette.core.weights import BrokenWeights
from maquette.families.lora import LoadedLora, LoraLayer
from maquette.inference.adapters import LoraStore

pytestmark = pytest.mark.torch

SIZE = 800
"""Bytes of each LoRA here."""


class Files:
    """Files that can be read, and how often each was."""

    def __init__(self) -> None:
        self.reads: list[str] = []

    def read(self, path: str) -> LoadedLora:
        self.reads.append(path)
        if path == "broken":
            raise BrokenWeights(path)
        layer = LoraLayer(down=torch.zeros(4, 25), up=torch.zeros(25, 4), alpha=4.0, divisor=4)
        return LoadedLora(path, {"unet.layer": layer})


@pytest.fixture
def files() -> Files:
    return Files()


def test_a_lora_is_read_once(files: Files) -> None:
    store = LoraStore(10 * SIZE)
    first = store.use(["a", "b", "a"], files.read)
    assert list(first) == ["a", "b"]
    assert store.use(["a"], files.read)["a"] is first["a"]
    assert files.reads == ["a", "b"]
    assert store.size == 2 * SIZE


def test_the_one_used_longest_ago_goes_first(files: Files) -> None:
    store = LoraStore(3 * SIZE)
    for path in ("a", "b", "c", "a", "d"):
        store.use([path], files.read)
    assert store.paths == ("c", "a", "d")
    assert store.size <= 3 * SIZE


def test_those_in_use_stay_whatever_the_budget(files: Files) -> None:
    store = LoraStore(SIZE)
    store.use(["a", "b", "c"], files.read)
    assert store.paths == ("a", "b", "c")
    store.use(["c"], files.read)
    assert store.paths == ("c",)


def test_reading_one_in_use_evicts_no_other_in_use(files: Files) -> None:
    """`a` is kept and in use, and is not what makes room for `z`."""
    store = LoraStore(2 * SIZE)
    store.use(["a"], files.read)
    store.use(["b"], files.read)
    store.use(["z", "a"], files.read)
    assert set(store.paths) == {"a", "z"}
    assert files.reads == ["a", "b", "z"]


def test_one_that_cannot_be_read_leaves_none_in_use(files: Files) -> None:
    store = LoraStore(SIZE)
    with pytest.raises(BrokenWeights):
        store.use(["a", "b", "broken"], files.read)
    assert store.size <= SIZE
    assert "broken" not in store.paths


@pytest.mark.parametrize("forget", [lambda store, files: store.use(["b"], files.read), lambda store, _: store.clear()])
def test_what_went_is_gone_from_memory(files: Files, forget: Callable[[LoraStore, Files], None]) -> None:
    store = LoraStore(SIZE)
    matrix = weakref.ref(store.use(["a"], files.read)["a"].layers["unet.layer"].down)
    assert matrix() is not None
    forget(store, files)
    gc.collect()
    assert matrix() is None
