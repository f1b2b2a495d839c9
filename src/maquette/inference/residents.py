"""Bases in a device's memory, each with the LoRAs that were read for it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from maquette.core.basefolder import base_family
from maquette.core.drawing import BaseUse, Loaded, LoadedBase
from maquette.families.base import Adapters, Pipeline, load_family
from maquette.families.kept import KeptModels
from maquette.families.registry import layouts
from maquette.inference.adapters import LoraStore


@dataclass(frozen=True)
class Resident:
    """A base in the device's memory."""

    pipeline: Pipeline
    adapters: Adapters
    loras: LoraStore


class Residents:
    """The bases that were used last; another content in a base's folder is another base.

    Args:
        device: where they are.
        most: how many there may be at a time; the one used longest ago goes before another is loaded.
        lora_bytes: host memory for LoRAs, divided among them.
    """

    def __init__(self, device: torch.device, *, most: int, lora_bytes: int) -> None:
        self._device = device
        self._lora_bytes = lora_bytes // most
        self._bases = KeptModels(self._load, most=most, device=device)

    def use(self, base: BaseUse) -> Resident:
        """A base, loaded where it is not; no LoRA acts on it.

        Raises:
            BrokenBase, UnknownName: it can't be loaded, or is not what was registered.
        """
        resident = self._bases.use(base)
        resident.adapters.activate(())
        return resident

    def deactivate(self) -> None:
        """Let no LoRA act on any."""
        for resident in self._bases.all.values():
            resident.adapters.activate(())

    def clear(self) -> None:
        """Let all go."""
        self._bases.clear()

    @property
    def loaded(self) -> Loaded:
        """All bases, and the LoRAs that were read for each."""
        bases = tuple(LoadedBase(base, resident.loras.paths) for base, resident in self._bases.all.items())
        return Loaded(bases=bases, room=self._bases.room)

    @property
    def device_bytes(self) -> int:
        """Bytes in use on the device; 0 on the CPU, which does not tell."""
        return torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0

    def _load(self, base: BaseUse) -> Resident:
        folder = Path(base.path)
        family = load_family(base_family(folder, layouts()))
        pipeline = family.pipeline.load(folder, self._device)
        return Resident(pipeline, family.adapters(pipeline), LoraStore(self._lora_bytes))
