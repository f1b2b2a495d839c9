"""Models that stay in a device's memory until others need their place."""

import gc
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import torch

from maquette.core.basefolder import check_base
from maquette.core.drawing import BaseUse

T = TypeVar("T")


class KeptModels(Generic[T]):
    """Registered models that were used last; another content in a model's folder is another model.

    Args:
        load: loads one.
        most: how many there may be at a time.
        device: where they are.
    """

    def __init__(self, load: Callable[[BaseUse], T], *, most: int, device: torch.device) -> None:
        self._load = load
        self._most = most
        self._device = device
        self._kept: OrderedDict[BaseUse, T] = OrderedDict()
        """The one used last is the last."""

    @property
    def room(self) -> bool:
        """Whether another can be loaded without letting one go."""
        return len(self._kept) < self._most

    @property
    def all(self) -> Mapping[BaseUse, T]:
        """All of them, the one used last at the end."""
        return self._kept

    def use(self, model: BaseUse) -> T:
        """One of them, loaded where it is not; the one used longest ago goes before that, since both may not fit.

        Raises:
            BrokenBase: its folder does not hold what was registered, and none went for it.
        """
        if model not in self._kept:
            check_base(Path(model.path), model.sha256)
            while not self.room:
                self._kept.popitem(last=False)
                self._free_memory()
            self._kept[model] = self._load(model)
        self._kept.move_to_end(model)
        return self._kept[model]

    def clear(self) -> None:
        """Let all go."""
        self._kept.clear()
        self._free_memory()

    def _free_memory(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
