"""Restoring faces: the port. We bring no restorer; other packages do, through an entry point."""

from collections.abc import Callable
from typing import Protocol

from PIL import Image

from maquette.core.registry import Registry

RESTORERS = Registry("face restorer", "maquette.face_restorers", {})
"""By the names that `face_restore`'s `method` takes; each is a `RestorerFactory`."""


class FaceRestorer(Protocol):
    """Makes damaged, small or blurred faces good again."""

    @property
    def identity(self) -> str:
        """Changes whenever its pictures may: its model and version."""
        ...

    def restore(self, image: Image.Image, upscale: float) -> Image.Image:
        """An RGB picture with its faces restored, its sides `upscale` times as long and never of no pixel."""
        ...


RestorerFactory = Callable[[str], FaceRestorer]
"""Takes a torch device string. The restorer is let go of before a base is loaded."""


def load_restorer(name: str, device: str) -> FaceRestorer | None:
    """The restorer of this name; None where nobody has registered one.

    Raises:
        UnknownName: two packages have. A package's module may raise anything else besides.
    """
    if name not in RESTORERS.names():
        return None
    factory: RestorerFactory = RESTORERS.load(name)
    return factory(device)
