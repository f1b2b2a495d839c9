"""Bases in a device's memory, each with the LoRAs that were read for it."""

import gc
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from maquette.core.basefolder import base_family
from maquette.core.drawing import BaseUse, Loaded, LoadedBase
from maquette.families.base import Adapters, Pipeline, load_family
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
        self._most = most
        self._lora_bytes = lora_bytes // most
        self._bases: OrderedDict[BaseUse, Resident] = OrderedDict()
        """The one used last is the last."""

    def use(self, base: BaseUse) -> Resident:
        """A base, loaded where it is not; no LoRA acts on it.

        Raises:
            BrokenBase, UnknownName: it can't be loaded.
        """
        if base not in self._bases:
            self._bases[base] = self._load(base)
        self._bases.move_to_end(base)
        resident = self._bases[base]
        resident.adapters.activate(())
        return resident

    def deactivate(self) -> None:
        """Let no LoRA act on any."""
        for resident in self._bases.values():
            resident.adapters.activate(())

    def clear(self) -> None:
        """Let all go."""
        self._bases.clear()
        self._free_memory()

    @property
    def loaded(self) -> Loaded:
        """All bases, and the LoRAs that were read for each."""
        bases = tuple(LoadedBase(base, resident.loras.paths) for base, resident in self._bases.items())
        return Loaded(bases=bases, room=len(bases) < self._most)

    @property
    def device_bytes(self) -> int:
        """Bytes in use on the device; 0 on the CPU, which does not tell."""
        return torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0

    def _load(self, base: BaseUse) -> Resident:
        folder = Path(base.path)
        family = load_family(base_family(folder, layouts()))
        while len(self._bases) >= self._most:
            self._bases.popitem(last=False)
            self._free_memory()
        pipeline = family.pipeline.load(folder, self._device)
        return Resident(pipeline, family.adapters(pipeline), LoraStore(self._lora_bytes))

    def _free_memory(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
