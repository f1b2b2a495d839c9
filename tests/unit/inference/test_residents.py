"""Bases in memory: which stay, which go, and that they are gone."""

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import NOTHING_LOADED, BaseUse, Loaded, LoadedBase
from maquette.inference.residents import Residents
from maquette.testing.tiny_family import build_tiny_base, registered

pytestmark = pytest.mark.torch

LORA_BYTES = 1000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], BaseUse]:
    """Bases by their number."""
    root = tmp_path_factory.mktemp("bases")
    made = [registered(build_tiny_base(root / str(number), seed=number)) for number in range(3)]
    return made.__getitem__


def residents(most: int) -> Residents:
    return Residents(torch.device("cpu"), most=most, lora_bytes=LORA_BYTES)


def test_a_base_is_loaded_once(base: Callable[[int], BaseUse]) -> None:
    held = residents(2)
    first, second = held.use(base(0)), held.use(base(1))
    assert held.use(base(0)) is first
    assert held.use(base(1)) is second
    assert held.loaded == Loaded(bases=(LoadedBase(base(0), ()), LoadedBase(base(1), ())), room=False)


def test_the_one_used_longest_ago_goes_and_is_gone_from_memory(base: Callable[[int], BaseUse]) -> None:
    held = residents(2)
    weights = {
        number: weakref.ref(next(held.use(base(number)).pipeline.unet.parameters()))  # pyright: ignore[reportAttributeAccessIssue]
        for number in (0, 1, 0, 2)
    }
    assert {number: weight() is not None for number, weight in weights.items()} == {0: True, 1: False, 2: True}


def test_another_content_in_the_same_folder_is_another_base(tmp_path: Path) -> None:
    held = residents(1)
    folder = build_tiny_base(tmp_path / "base")
    earlier = registered(folder)
    first = held.use(earlier)
    (folder / "model_index.json").write_text((folder / "model_index.json").read_text() + "\n")
    assert held.use(earlier) is first, "it stays loaded"
    anew = registered(folder)
    assert held.use(anew) is not first
    assert [each.base for each in held.loaded.bases] == [anew]
    with pytest.raises(BrokenBase, match=f"is not what was registered: its hash is {anew.sha256}, not"):
        held.use(earlier)


def test_one_that_is_not_there_makes_no_room(base: Callable[[int], BaseUse], tmp_path: Path) -> None:
    held = residents(1)
    first = held.use(base(0))
    for wrong in (BaseUse(str(tmp_path / "nowhere"), "none"), BaseUse(base(1).path, base(2).sha256)):
        with pytest.raises(BrokenBase):
            held.use(wrong)
    assert held.use(base(0)) is first


def test_nothing_is_loaded_before_the_first_and_after_all_went(base: Callable[[int], BaseUse]) -> None:
    held = residents(1)
    assert held.loaded == NOTHING_LOADED
    weight = weakref.ref(next(held.use(base(0)).pipeline.unet.parameters()))  # pyright: ignore[reportAttributeAccessIssue]
    held.clear()
    assert weight() is None
    assert held.loaded == NOTHING_LOADED
