"""Losses that can be compared: at the same timesteps, noise and wordings every time they are asked for."""

from collections.abc import Sequence

import torch

from maquette.families.base import Objective
from maquette.families.precision import mixed_precision
from maquette.trainer.cache import EncodedExamples
from maquette.trainer.randomness import generator

PROBE_ROWS = 2
"""Pictures of the probe: it tells whether a checkpoint was loaded as it was taken, not how good it is."""
VALIDATION_DRAWS = 4
"""Timesteps at which each held-out picture is measured."""
TRAINING_DRAWS = 8
"""Timesteps at which what is trained on is measured. Few do: they are the same with the LoRA and without."""


class Evaluation:
    """Measures the LoRA that is attached, and changes nothing, no random source of the training's either."""

    def __init__(
        self, examples: EncodedExamples, objective: Objective, held_out: Sequence[int], seed: int, device: torch.device
    ) -> None:
        """Take what is measured on.

        Args:
            held_out: rows of `examples` that are not trained on.
            seed: decides timesteps and noise.
        """
        self._examples = examples
        self._objective = objective
        self._held_out = held_out
        self._seed = seed
        self._device = device

    def probe(self) -> float:
        """The loss on the first pictures."""
        return self._mean_loss(range(min(PROBE_ROWS, len(self._examples.examples))), "probe", draws=1)

    def validate(self) -> float | None:
        """The loss on the pictures that are held out, or None where there are none."""
        return self._mean_loss(self._held_out, "validation", VALIDATION_DRAWS) if self._held_out else None

    def training(self, rows: Sequence[int]) -> float:
        """The loss on these rows of what is trained on, evenly among them."""
        drawn = [rows[number * len(rows) // TRAINING_DRAWS] for number in range(TRAINING_DRAWS)]
        return self._mean_loss(drawn, "training", draws=1)

    @torch.no_grad()
    def _mean_loss(self, rows: Sequence[int], purpose: str, draws: int) -> float:
        random = generator(self._seed, purpose)
        with mixed_precision(self._device):
            # One row at a time, so that measuring never takes more memory than training.
            losses = [
                self._objective.losses(*self._examples.batch(shown, self._device))
                for row in [row for row in rows for _ in range(draws)]
                for shown in self._examples.show([row], self._objective, random)
            ]
        return torch.cat(losses).double().mean().item()
