"""Drawing a list of pictures with one base."""

from collections.abc import Sequence
from pathlib import Path

from maquette.core.basefolder import base_family
from maquette.core.drawing import DrawRequest
from maquette.families.base import load_family
from maquette.families.pixels import write_png
from maquette.families.registry import layouts
from maquette.inference.adapters import LoraStore
from maquette.inference.device import usable_device
from maquette.inference.worker import REFUSALS

FORESEEN = (*(kind for kind, _ in REFUSALS), OSError)
"""Errors that say in words why a picture could not be drawn."""


def draw_all(base: Path, requests: Sequence[DrawRequest], folder: Path, device: str) -> None:
    """Draw each request to `000.png`, `001.png`, … in `folder`, which is made where it does not exist.

    Raises:
        UnknownDevice: see there.
        FORESEEN: the base can't be used, or what a request asks for; the pictures before that one are drawn.
    """
    place = usable_device(device)
    family = load_family(base_family(base, layouts()))
    pipeline = family.pipeline.load(base, place)
    adapters = family.adapters(pipeline)
    # Those of the request before stay until the next: a list mostly asks for the same.
    loras = LoraStore(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index, request in enumerate(requests):
        loaded = loras.use([lora.path for lora in request.loras], adapters.read)
        adapters.activate([(loaded[lora.path], lora.strength) for lora in request.loras])
        write_png(folder / f"{index:03d}.png", pipeline.draw(request))
