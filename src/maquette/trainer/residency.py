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
        # None while parts are being moved, and after a move that failed: any part may be there, or half of it.
        self._there: Set[Part] | None = frozenset()
        self._together = together

    def bring(self, *parts: Part) -> None:
        """Have these parts on the device and, unless all stay together, no others. Costs nothing where they are.

        Where it raises (the device's memory may not suffice), another call sets right whatever it left half moved.
        """
        wanted = frozenset(parts)
        if self._together or self._there == wanted:
            return
        modules = self._pipeline.modules
        leaving = (frozenset(Part) if self._there is None else self._there) - wanted
        self._there = None
        for part in leaving:
            for module in modules[part]:
                module.to("cpu")
        if self._device.type == "cuda":
            # What was freed goes back, so that what others see of the device is true.
            torch.cuda.empty_cache()
        for part in parts:
            for module in modules[part]:
                module.to(self._device)
        self._there = wanted
