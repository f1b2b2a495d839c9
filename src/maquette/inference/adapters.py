"""LoRAs kept in host memory, so that a swap reads no file."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from maquette.families.lora import LoadedLora


class LoraStore:
    """Loaded LoRAs by their path; a path stands for one content, and all are of one base.

    Those used least recently go as soon as all together are larger than the budget, but never those in use: a budget
    (bytes) that these alone exceed holds nothing else.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[str, LoadedLora] = OrderedDict()
        """The one used last is the last."""
        self._in_use: frozenset[str] = frozenset()

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all that are kept, the one used last at the end."""
        return tuple(self._kept)

    @property
    def size(self) -> int:
        """Bytes of all that are kept."""
        return sum(lora.size for lora in self._kept.values())

    def use(self, paths: Iterable[str], read: Callable[[str], LoadedLora]) -> Mapping[str, LoadedLora]:
        """The LoRAs of these files, by path; those not kept yet are read. They are in use until the next call.

        If one can't be read, its error is passed on, and none is in use.
        """
        wanted = tuple(dict.fromkeys(paths))
        self._in_use = frozenset(wanted)
        try:
            return {path: self._get(path, read) for path in wanted}
        except BaseException:
            self._in_use = frozenset()
            raise
        finally:
            self._shrink()

    def clear(self) -> None:
        """Forget all."""
        self._in_use = frozenset()
        self._kept.clear()

    def _get(self, path: str, read: Callable[[str], LoadedLora]) -> LoadedLora:
        lora = self._kept.get(path)
        if lora is None:
            lora = self._kept[path] = read(path)
            self._shrink()
        self._kept.move_to_end(path)
        return lora

    def _shrink(self) -> None:
        idle = [path for path in self._kept if path not in self._in_use]
        while idle and self.size > self._budget:
            del self._kept[idle.pop(0)]
