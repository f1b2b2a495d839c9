"""A tiny base of every family, for the checks that every family must pass.

Packages that bring a family bring one of these too, through the entry-point group `maquette.tiny_bases`: the entry
point's name is the family's, and it loads a `TinyBase`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from maquette.core.registry import Registry
from maquette.testing.single_file import sd15_in_one_file, sdxl_in_one_file
from maquette.testing.tiny_family import build_tiny_base
from maquette.testing.tiny_flux1 import build_tiny_flux1
from maquette.testing.tiny_sdxl import build_tiny_sdxl


@dataclass(frozen=True)
class TinyBase:
    """A family's tiny base.

    Attributes:
        build: writes a base's folder that draws pictures of 64 pixels; answers it.
        library: loads such a folder with diffusers alone; None where diffusers has no LoRAs for this family.
        in_one_file: writes what `build` built to another folder, its weights in one file; None where no such files were
            published, or diffusers does not read them at this size.
        converts: whether diffusers reads kohya's layout at this size.
    """

    build: Callable[[Path], Path]
    library: Callable[[Path], Any] | None = None
    in_one_file: Callable[[Path, Path], Path] | None = None
    converts: bool = True


def _loading(library: Any, **absent: Any) -> Callable[[Path], Any]:
    return partial(library.from_pretrained, local_files_only=True, **absent)


SD15 = TinyBase(build_tiny_base, _loading(StableDiffusionPipeline, safety_checker=None), sd15_in_one_file)
SDXL = TinyBase(build_tiny_sdxl, _loading(StableDiffusionXLPipeline), sdxl_in_one_file)
FLUX1 = TinyBase(build_tiny_flux1, _loading(FluxPipeline), converts=False)
"""Of FLUX.1 diffusers' converters know the published numbers of blocks and channels only."""

TINY_BASES = Registry(
    "tiny base",
    "maquette.tiny_bases",
    {
        "sd15": "maquette.testing.tiny_bases:SD15",
        "sdxl": "maquette.testing.tiny_bases:SDXL",
        "flux1": "maquette.testing.tiny_bases:FLUX1",
    },
)
