"""The words a picture is trained with: its caption, its tags in other orders, or none."""

from collections.abc import Sequence

import torch

from maquette.core.specs import Picture, TrainingSettings
from maquette.trainer.randomness import generator

ORDERS = 4
"""In how many orders a caption's tags are shown where each is encoded once, so that text encoders may go before they
are trained with."""
NOTHING = ""
"""The prompt of a picture whose caption is dropped, so that the LoRA learns what drawing is guided away from."""


def wordings(picture: Picture, settings: TrainingSettings) -> tuple[str, ...]:
    """Everything a picture may be called in training besides `NOTHING`: its caption, or that in several orders.

    Tags are what stands between commas; the first one stays in front. The orders depend on the seed and the picture's
    name alone.
    """
    caption = picture.caption or settings.instance_prompt
    if not settings.shuffle_tags or caption.count(",") < 2:
        return (caption,)
    random = generator(settings.seed, f"tags of {picture.name}")
    return tuple(shuffled(caption, random) for _ in range(ORDERS))


def shuffled(wording: str, random: torch.Generator) -> str:
    """The same tags in another order, but for the first."""
    first, *others = (tag.strip() for tag in wording.split(","))
    order = torch.randperm(len(others), generator=random).tolist()
    return ", ".join([first, *(others[index] for index in order)])


def choose(wordings: Sequence[str], dropout: float, random: torch.Generator) -> str:
    """One of the wordings, or `NOTHING` with probability `dropout`; draws from `random` only where it decides."""
    if dropout > 0 and torch.rand((), generator=random).item() < dropout:
        return NOTHING
    if len(wordings) == 1:
        return wordings[0]
    return wordings[int(torch.randint(len(wordings), (), generator=random))]
