"""Registries: visible maps of names to things that are loaded when they are asked for."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


class UnknownName(LookupError):
    """Nothing is registered under this name; the words list what is."""


class Registry:
    """Named things, each loaded at first use, so that a heavy dependency costs nobody else.

    Attributes:
        kind: what is registered, as it is called in errors ("executor").
        group: entry point group through which other packages add theirs; they can't replace ours.
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, str]) -> None:
        """Take `ours`: for each name, where the thing is (`package.module:attribute`)."""
        self.kind = kind
        self.group = group
        self._ours = dict(ours)

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted({*self._ours, *entry_points(group=self.group).names})

    def load(self, name: str) -> Any:
        """The thing registered as `name`.

        Raises:
            UnknownName: nothing is.
            ImportError: it is registered, but its module or one of its dependencies can't be imported.
        """
        if name in self._ours:
            module, _, attribute = self._ours[name].partition(":")
            return getattr(import_module(module), attribute)
        for found in entry_points(group=self.group, name=name):
            return found.load()
        raise UnknownName(f"unknown {self.kind} {name!r}; known are {', '.join(self.names())}")
