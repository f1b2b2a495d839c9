"""Which families there are. Torch-free: everything heavy is named by dotted strings and loaded on demand.

Other packages add families through the entry-point group `maquette.families`: the entry point's name is the
family's, and it loads a `FamilySpec`.
"""

import logging

from msgspec import Struct, convert

from maquette.core.basefolder import BaseLayout
from maquette.core.registry import Registry
from maquette.core.specs import FamilyDefaults
from maquette.families.lora_keys import LoraKeys
from maquette.families.memory import MemoryModel

# Not structlog: commands set up no logs, and its lines would be among their answers on stdout, not on stderr.
log = logging.getLogger(__name__)


class FamilySpec(Struct, frozen=True, kw_only=True):
    """What everyone may know of a family without loading it.

    Attributes:
        name: as bases and specs call it.
        title: as people call it.
        native_resolution: pixels of the square pictures its published bases were trained on.
        published_name: what the published API calls it, where it has a word for it.
        licence: what its published bases' licences ask for, in a sentence; a base of one's own may differ.
        defaults: its answers for settings that a request leaves open.
        layout: what the folders of its bases look like.
        keys: how LoRA files name the layers of its bases.
        memory: what training on its bases takes.
        objective_settings: what its objective reads and not every family's does, of `DIFFUSION_SETTINGS`.
        pipeline, objective, adapters: where its parts are (`package.module:attribute`); their protocols are in
            `maquette.families.base`.
    """

    name: str
    title: str
    native_resolution: int
    licence: str
    defaults: FamilyDefaults
    layout: BaseLayout
    keys: LoraKeys
    memory: MemoryModel
    pipeline: str
    objective: str
    adapters: str
    published_name: str | None = None
    objective_settings: tuple[str, ...] = ()

    @property
    def trained_encoders(self) -> tuple[str, ...]:
        """The text encoders that a LoRA may be put on."""
        return self.memory.trained_encoders.components


FAMILIES = Registry(
    "family",
    "maquette.families",
    {
        "sd15": "maquette.families.sd15.spec:SPEC",
        "sdxl": "maquette.families.sdxl.spec:SPEC",
        "flux1": "maquette.families.flux1.spec:SPEC",
    },
)


def load_spec(name: str) -> FamilySpec:
    """A family's spec.

    Raises:
        UnknownName: there is no such family.
    """
    return FAMILIES.load(name)


def specs() -> dict[str, FamilySpec]:
    """The specs of all families by name.

    A family that can't be loaded is logged and left out: others go on without it.
    """
    found: dict[str, FamilySpec] = {}
    for name in FAMILIES.names():
        try:
            found[name] = convert(load_spec(name), FamilySpec)
        except Exception:  # somebody else's module may raise anything
            log.exception("the family %r can't be loaded and is left out", name)
    return found


def layouts() -> dict[str, BaseLayout]:
    """What the bases of every family look like, by the family's name; see `specs`."""
    return {name: spec.layout for name, spec in specs().items()}
