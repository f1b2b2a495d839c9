"""A tiny base of every family that comes with Maquette, for the checks that every family must pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from maquette.testing.tiny_family import build_tiny_base
from maquette.testing.tiny_flux1 import build_tiny_flux1
from maquette.testing.tiny_sdxl import build_tiny_sdxl


@dataclass(frozen=True)
class TinyBase:
    """A family's tiny base.

    Attributes:
        build: writes a base's folder that draws pictures of 64 pixels; answers it.
        library: loads such a folder with diffusers alone; None where diffusers does not draw this family.
        converts: whether diffusers reads kohya's layout at this size.
    """

    build: Callable[[Path], Path]
    library: Callable[[Path], Any] | None = None
    converts: bool = True


def _loading(library: Any, **absent: Any) -> Callable[[Path], Any]:
    return partial(library.from_pretrained, local_files_only=True, **absent)


TINY_BASES: Mapping[str, TinyBase] = {
    "sd15": TinyBase(build_tiny_base, _loading(StableDiffusionPipeline, safety_checker=None)),
    "sdxl": TinyBase(build_tiny_sdxl, _loading(StableDiffusionXLPipeline)),
    # Its converter knows FLUX.1's published numbers of blocks and channels only.
    "flux1": TinyBase(build_tiny_flux1, _loading(FluxPipeline), converts=False),
}
