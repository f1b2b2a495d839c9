"""A tiny base of every family, for the checks that every family must pass.

Packages that bring a family bring one of these too, through the entry-point group `maquette.tiny_bases`: the entry
point's name is the family's, and it loads a `TinyBase`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maquette.core.registry import Registry
from maquette.testing.single_file import (
    flux1_in_one_file,
    flux1_transformer_in_one_file,
    sd15_in_one_file,
    sdxl_in_one_file,
)
from maquette.testing.tiny_family import build_tiny_base
from maquette.testing.tiny_flux1 import build_tiny_flux1, build_wide_flux1
from maquette.testing.tiny_sdxl import build_tiny_sdxl


@dataclass(frozen=True)
class TinyBase:
    """A family's tiny base.

    Attributes:
        build: writes a base's folder that draws pictures of 64 pixels; answers it.
        in_one_file: each writes such a base to another folder, its weights or a part of them in one file, as bases are
            published; none where diffusers' pipeline reads no such files.
        wide: writes one that is as wide as published bases, where diffusers' converters know their width alone.
    """

    build: Callable[[Path], Path]
    in_one_file: Sequence[Callable[[Path, Path], Path]] = ()
    wide: Callable[[Path], Path] | None = None


SD15 = TinyBase(build_tiny_base, (sd15_in_one_file,))
SDXL = TinyBase(build_tiny_sdxl, (sdxl_in_one_file,))
FLUX1 = TinyBase(build_tiny_flux1, (flux1_in_one_file, flux1_transformer_in_one_file), build_wide_flux1)

TINY_BASES = Registry(
    "tiny base",
    "maquette.tiny_bases",
    {
        "sd15": "maquette.testing.tiny_bases:SD15",
        "sdxl": "maquette.testing.tiny_bases:SDXL",
        "flux1": "maquette.testing.tiny_bases:FLUX1",
    },
)
