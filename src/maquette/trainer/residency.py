"""Which parts of a pipeline are on the device: all where the run's plan has room for them, else those at work.

The others wait in host memory. A large family's text encoders take gigabytes that its denoiser needs for training.
"""

from collections.abc import Set

import torch

from maquette.families.base import Part, Pipeline


class Residency:
    """Moves a pipeline's parts."""

    def __init__(self, pipeline: Pipeline, device: torch.device, *, together: bool) -> None:
        """Take a pipeline as it was loaded.

        Args:
            together: whether it is on the device as a whole, and stays there; else all of it waits in host memory.
        """
        self._pipeline = pipeline
        self._device = device
        self._there: Set[Part] = frozenset()
        self._together = together

    def bring(self, *parts: Part) -> None:
        """Have these parts on the device and, unless all stay together, no others. Costs nothing where they are."""
        if self._together or self._there == set(parts):
            return
        modules = self._pipeline.modules
        for part in self._there - set(parts):
            for module in modules[part]:
                module.to("cpu")
        if self._device.type == "cuda":
            # What was freed goes back, so that what others see of the device is true.
            torch.cuda.empty_cache()
        for part in parts:
            for module in modules[part]:
                module.to(self._device)
        self._there = frozenset(parts)
