"""Face detectors of OpenCV. Nobody imports this but `maquette.pictures.faces`, by name."""

from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from maquette.core.files import file_sha256
from maquette.pictures.crops import Box, Size
from maquette.pictures.faces import BrokenDetector
from maquette.pictures.shrinking import shrunk

WORKING_SIDE = 640
"""Pixels of the longer side that is searched: larger takes longer and finds faces too small to learn from."""
CASCADE = "haarcascade_frontalface_alt2.xml"
SCALE_STEP = 1.1
NEIGHBOURS = 5
"""Detections that must agree; fewer find more faces, and more of what is none."""
MIN_FACE = 1 / 20
"""Side of the smallest face that is looked for, of the picture's shorter side."""
MIN_SCORE = 0.8
"""How sure YuNet must be, 0..1."""

# What several threads find comes in any order; and whoever trains has been given as many threads as it may use.
cv2.setNumThreads(1)


class CascadeDetector:
    """The boosted cascade for frontal faces that OpenCV 4 ships (Viola & Jones 2001; Lienhart & Maydt 2002)."""

    def __init__(self) -> None:
        self._cascade = cv2.CascadeClassifier(str(files("cv2") / "data" / CASCADE))

    @property
    def identity(self) -> str:
        """See `FaceDetector.identity`."""
        return f"{CASCADE} of OpenCV {cv2.__version__}"

    def find(self, image: Image.Image) -> tuple[Box, ...]:
        """See `FaceDetector.find`."""
        small = shrunk(image, WORKING_SIDE)
        smallest = max(1, round(min(small.size) * MIN_FACE))
        boxes, _, sureness = self._cascade.detectMultiScale3(
            cv2.equalizeHist(np.asarray(small.convert("L"))),
            scaleFactor=SCALE_STEP,
            minNeighbors=NEIGHBOURS,
            minSize=(smallest, smallest),
            outputRejectLevels=True,
        )
        order = np.argsort(-np.ravel(np.asarray(sureness)), kind="stable")
        return tuple(_box(np.asarray(boxes)[index], small, image) for index in order)


class YuNetDetector:
    """YuNet (Wu et al. 2023, Machine Intelligence Research 20, 656-665), from a file the operator has."""

    def __init__(self, model: str) -> None:
        self._model = model
        try:
            self._detector = cv2.FaceDetectorYN.create(model, "", (WORKING_SIDE, WORKING_SIDE), MIN_SCORE)
        except cv2.error as error:
            raise BrokenDetector(
                f"MAQUETTE_FACE_DETECTOR: {model} is no YuNet model that OpenCV {cv2.__version__} can read"
                f" ({error.err}); name a file such as face_detection_yunet_2023mar.onnx, or leave it empty"
            ) from error

    @cached_property
    def identity(self) -> str:
        """See `FaceDetector.identity`."""
        return f"YuNet {file_sha256(Path(self._model))} in OpenCV {cv2.__version__}"

    def find(self, image: Image.Image) -> tuple[Box, ...]:
        """See `FaceDetector.find`."""
        small = shrunk(image, WORKING_SIDE)
        self._detector.setInputSize(small.size)
        # OpenCV reads blue, green, red; each row found is a box, five landmarks and a score.
        found: Any = self._detector.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))
        _, rows = found
        if rows is None:
            return ()
        order = np.argsort(-rows[:, -1], kind="stable")
        return tuple(_box(rows[index, :4], small, image) for index in order)


def _box(found: np.ndarray, small: Image.Image, image: Image.Image) -> Box:
    """A box (left, top, width, height) found in the small picture, in the pixels of the large one and within it."""
    across, down = image.width / small.width, image.height / small.height
    left, top, width, height = (float(value) for value in found)
    full = Size(*image.size)
    return Box(
        left=_within(round(left * across), full.width - 1),
        top=_within(round(top * down), full.height - 1),
        right=_within(round((left + width) * across), full.width),
        bottom=_within(round((top + height) * down), full.height),
    )


def _within(value: int, most: int) -> int:
    return min(max(0, value), most)
