from collections import Counter
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from maquette.core.specs import Picture, TrainingSettings
from maquette.testing.factories import training_spec
from maquette.trainer.captions import NOTHING, ORDERS, choose, shuffled, wordings

pytestmark = pytest.mark.torch

TAGS = Picture("0.png", "0" * 64, "ohwx person, red hat,  beard , glasses, smile, night")


def settings(**changes: Any) -> TrainingSettings:
    return replace(training_spec().settings, **changes)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_caption_is_taken_as_it_is_unless_its_tags_are_shuffled() -> None:
    assert wordings(TAGS, settings()) == (TAGS.caption,)


def test_a_picture_without_a_caption_has_the_instance_prompt() -> None:
    picture = replace(TAGS, caption=None)
    assert wordings(picture, settings(instance_prompt="a photo of sks")) == ("a photo of sks",)


def test_shuffled_tags_are_all_there_in_other_orders_and_the_first_stays_in_front() -> None:
    found = wordings(TAGS, settings(shuffle_tags=True))
    assert len(found) == ORDERS
    assert len(set(found)) > 1
    for words in found:
        first, *others = words.split(", ")
        assert first == "ohwx person"
        assert sorted(others) == ["beard", "glasses", "night", "red hat", "smile"]


def test_orders_depend_on_seed_and_picture_alone() -> None:
    one = wordings(TAGS, settings(shuffle_tags=True, seed=1))
    assert wordings(TAGS, settings(shuffle_tags=True, seed=1, lora_r=8)) == one
    assert wordings(TAGS, settings(shuffle_tags=True, seed=2)) != one
    assert wordings(replace(TAGS, name="1.png"), settings(shuffle_tags=True, seed=1)) != one


def test_a_caption_that_was_dropped_has_nothing_to_shuffle() -> None:
    assert shuffled(NOTHING, random()) == NOTHING


@pytest.mark.parametrize("caption", ["a man on a sofa", "ohwx, man"])
def test_what_has_no_two_tags_to_shuffle_stays_as_it_is(caption: str) -> None:
    assert wordings(replace(TAGS, caption=caption), settings(shuffle_tags=True)) == (caption,)


def test_a_caption_is_dropped_as_often_as_is_asked_for() -> None:
    source = random()
    said = Counter(choose(("a", "b"), 0.25, source) for _ in range(4000))
    assert said[NOTHING] / 4000 == pytest.approx(0.25, abs=0.03)
    assert said["a"] / 4000 == pytest.approx(0.375, abs=0.03)
    assert all(choose(("a",), 1.0, source) == NOTHING for _ in range(20))


def test_where_there_is_no_choice_nothing_is_drawn() -> None:
    """A run with everything off sees the very noise it saw before there was anything to switch on."""
    source = random()
    before = source.get_state()
    assert choose(("a",), 0.0, source) == "a"
    assert torch.equal(source.get_state(), before)


def test_equal_sources_choose_alike() -> None:
    one, other = random(3), random(3)
    assert [choose(("a", "b"), 0.3, one) for _ in range(50)] == [choose(("a", "b"), 0.3, other) for _ in range(50)]
