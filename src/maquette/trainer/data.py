"""What is learned from, and the order in which it is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image

from maquette.families.base import OriginalSize
from maquette.trainer.tensor_store import Entry


@dataclass(frozen=True)
class Example:
    """One thing to learn from.

    Attributes:
        picture: makes it anew, RGB, sides multiples of 64; called only where its latents are not kept.
        wordings: what it may be called; never empty.
        original_size: before it was cropped and resized.
        kept_as: what its latents are, or will be, in the tenant's `TensorStore`.
        dropout: how often its caption is dropped, 0..1.
        mirrored: whether it is shown mirrored every other time.
    """

    picture: Callable[[], Image.Image]
    wordings: tuple[str, ...]
    original_size: OriginalSize
    kept_as: Entry
    dropout: float = 0.0
    mirrored: bool = False


class Shuffle:
    """An endless order over `length` rows: one random permutation after another."""

    def __init__(self, length: int, generator: torch.Generator) -> None:
        self.length = length
        self.generator = generator
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next rows; across the border of two permutations where need be."""
        return self.take_alike(count, lambda _: None)

    def take_alike(self, count: int, kind_of: Callable[[int], object]) -> list[int]:
        """The next row, and with it the next ones of its kind; the others keep their places.

        So a batch is of one kind, and in the long run every row comes equally often all the same: a kind with few rows
        takes them from later permutations, and has had its turn when these come.
        """
        if not self.waiting:
            self._shuffle()
        kind = kind_of(self.waiting[0])
        while sum(kind_of(row) == kind for row in self.waiting) < count:
            self._shuffle()
        places = [place for place, row in enumerate(self.waiting) if kind_of(row) == kind][:count]
        taken = [self.waiting[place] for place in places]
        self.waiting = [row for place, row in enumerate(self.waiting) if place not in places]
        return taken

    def _shuffle(self) -> None:
        self.waiting += torch.randperm(self.length, generator=self.generator).tolist()
