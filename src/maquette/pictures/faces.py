"""Finding faces: the port, and which detectors there are. OpenCV is loaded only when one is asked for."""

from importlib.util import find_spec
from typing import Protocol

from PIL import Image

from maquette.core.registry import load_dotted
from maquette.pictures.crops import Box

DETECTORS = {
    "cascade": "maquette.pictures.opencv:CascadeDetector",
    "yunet": "maquette.pictures.opencv:YuNetDetector",
}


class BrokenDetector(OSError):
    """The model that the operator named for finding faces can't be used; the message names the setting."""


class FaceDetector(Protocol):
    """Finds faces in pictures."""

    @property
    def identity(self) -> str:
        """Changes whenever what it finds may."""
        ...

    def find(self, image: Image.Image) -> tuple[Box, ...]:
        """Boxes of the faces in an RGB picture, from eyebrows to chin, within it; the surest first."""
        ...


def load_detector(model: str) -> FaceDetector | None:
    """What finds faces here; None where OpenCV is not installed.

    Args:
        model: file of a YuNet model; empty is the cascade that OpenCV ships.

    Raises:
        BrokenDetector: the file can't be used.
    """
    if find_spec("cv2") is None:
        return None
    return load_dotted(DETECTORS["yunet"])(model) if model else load_dotted(DETECTORS["cascade"])()
