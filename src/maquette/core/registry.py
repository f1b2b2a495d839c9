"""Registries: visible maps of names to things that are loaded when they are asked for."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class UnknownName(LookupError):
    """Nothing is registered under this name, or more than one thing is; the words say what there is."""


class Registry:
    """Named things. Their names load nothing; a thing is imported, with what it depends on, when it is asked for.

    Whoever asks for all of them imports them all, and meets those that can't be.

    Attributes:
        kind: what is registered, as it is called in errors ("executor").
        group: entry point group through which other packages add theirs. A name that is ours, or that two of them
            bring, is nobody's: it can't be loaded until one of the packages is gone.
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, str]) -> None:
        """Take `ours`: for each name, where the thing is (`package.module:attribute`)."""
        self.kind = kind
        self.group = group
        self._ours = tuple(EntryPoint(name, dotted, group) for name, dotted in ours.items())

    def own_names(self) -> list[str]:
        """The names of what comes with Maquette."""
        return [entry.name for entry in self._ours]

    def names(self) -> list[str]:
        """Every registered name: ours, then those of other packages, sorted."""
        ours = self.own_names()
        return [*ours, *sorted(entry_points(group=self.group).names - set(ours))]

    def load(self, name: str) -> Any:
        """The thing registered as `name`.

        Raises:
            UnknownName: nothing is, or more than one thing.
            ImportError: it is registered, but its module or one of its dependencies can't be imported.
            AttributeError: its module has no such thing. A package's module may raise anything else besides.
        """
        entries = (*self._ours, *entry_points(group=self.group))
        found = {entry.value: entry for entry in entries if entry.name == name}
        if not found:
            raise UnknownName(f"no {self.kind} {name!r} in this installation; it has {', '.join(self.names())}")
        if len(found) > 1:
            raise UnknownName(f"the {self.kind} {name!r} is registered more than once: {' and '.join(sorted(found))}")
        return next(iter(found.values())).load()


def load_dotted(dotted: str) -> Any:
    """The object that `package.module:attribute` means."""
    return EntryPoint(dotted, dotted, "").load()
