"""Which parts of a pipeline are on the device: all where there is room for them, else those at work.

The others wait in host memory. A large family's text encoders take gigabytes that its denoiser needs for training.
"""

from collections.abc import Set
from typing import Self

import torch

from maquette.families.base import Part, Pipeline

SHARE = 0.25
"""Of a device's memory that all parts together may lie in, if they are to stay beside what training needs."""


class Residency:
    """Moves a pipeline's parts."""

    def __init__(self, pipeline: Pipeline, device: torch.device, *, together: bool) -> None:
        """Take a pipeline that is on its device as a whole.

        Args:
            together: whether it stays there as a whole; then nothing is ever moved.
        """
        self._pipeline = pipeline
        self._device = device
        self._there: Set[Part] = frozenset(Part)
        self._together = together

    @classmethod
    def suited(cls, pipeline: Pipeline, device: torch.device) -> Self:
        """Keep the parts together where they are few bytes beside the device's, or where the device is the host."""
        together = device.type != "cuda" or size(pipeline) <= SHARE * torch.cuda.mem_get_info(device)[1]
        return cls(pipeline, device, together=together)

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


def size(pipeline: Pipeline) -> int:
    """Bytes of all weights and buffers of a pipeline."""
    return sum(
        tensor.nbytes
        for modules in pipeline.modules.values()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )
