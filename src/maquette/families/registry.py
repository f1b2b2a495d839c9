"""Which families there are. Torch-free: everything heavy is named by dotted strings and loaded on demand.

Other packages add families through the entry-point group `maquette.families`: the entry point's name is the
family's, and it loads a `FamilyModules`.
"""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from msgspec import Struct

from maquette.core.specs import FamilyDefaults

ENTRY_POINT_GROUP = "maquette.families"


class FamilySpec(Struct, frozen=True, kw_only=True):
    """What everyone may know of a family without loading it.

    Attributes:
        name: as bases and specs call it.
        title: as people call it.
        native_resolution: pixels of the square pictures its published bases were trained on.
        licence: what its published bases' licences ask for, in a sentence; a base of one's own may differ.
        defaults: its answers for settings that a request leaves open.
    """

    name: str
    title: str
    native_resolution: int
    licence: str
    defaults: FamilyDefaults


class FamilyModules(Struct, frozen=True, kw_only=True):
    """Where a family's parts live, each as `module:name`; the protocols are in `maquette.families.base`."""

    spec: str
    pipeline: str
    objective: str
    adapters: str


FAMILIES: Mapping[str, FamilyModules] = {
    "sd15": FamilyModules(
        spec="maquette.families.sd15.spec:SPEC",
        pipeline="maquette.families.sd15.pipeline:Sd15Pipeline",
        objective="maquette.families.sd15.objective:Sd15Objective",
        adapters="maquette.families.sd15.adapters:Sd15Adapters",
    ),
}


class UnknownFamily(Exception):
    """No family of this installation has this name; the message lists those that it has."""


def families() -> dict[str, FamilyModules]:
    """Every family by its name: ours and those of installed packages.

    Raises:
        ValueError: a package brings a family under a name that is taken.
    """
    found = dict(FAMILIES)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        if entry_point.name in found:
            raise ValueError(f"the family {entry_point.name!r} of {entry_point.value} exists already")
        found[entry_point.name] = entry_point.load()
    return found


def family_modules(name: str) -> FamilyModules:
    """Where the parts of a family live.

    Raises:
        UnknownFamily: there is no such family.
    """
    known = families()
    if name not in known:
        raise UnknownFamily(f"no family {name!r} in this installation; it has {', '.join(sorted(known))}")
    return known[name]


def load_spec(name: str) -> FamilySpec:
    """A family's spec.

    Raises:
        UnknownFamily: there is no such family.
    """
    return load_dotted(family_modules(name).spec)


def load_dotted(dotted: str) -> Any:
    """The object that `module:name` means."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)
