"""From a picture file to what is trained on: restored, cropped to what matters, resized; and what was seen of it."""

from dataclasses import dataclass
from importlib.metadata import version

import msgspec
from msgspec import Struct
from PIL import Image

from maquette.core.decoding import decode
from maquette.core.ids import sha256_hex
from maquette.core.specs import Preparation
from maquette.pictures.buckets import bucket
from maquette.pictures.crops import Box, Size, around, biggest, cover, heads_center
from maquette.pictures.faces import FaceDetector
from maquette.pictures.measures import sharpness, thumbnail
from maquette.pictures.restoring import FaceRestorer
from maquette.pictures.saliency import salient_center

RECIPE = 4
"""To be raised with every change here, or in what is called from here, that may change a pixel or a fact."""


class PictureFacts(Struct, frozen=True, kw_only=True):
    """What was seen of a picture while it was prepared.

    Attributes:
        picture: its size upright, with its faces restored where they were.
        faces: the boxes of its faces, the surest first; None where nothing could look for them.
        crop: the part of it that is trained on.
        size: what that part was resized to.
        sharpness: of the part that is trained on, before it was enlarged; see `measures.sharpness`.
        thumbnail: of the whole picture, see `measures.thumbnail`.
    """

    picture: Size
    faces: tuple[Box, ...] | None
    crop: Box
    size: Size
    sharpness: float | None
    thumbnail: bytes


@dataclass(frozen=True)
class Prepared:
    """A picture as it is trained on, RGB, and what was seen of it."""

    image: Image.Image
    facts: PictureFacts


class Preparer:
    """Prepares pictures in one way, the same each time."""

    def __init__(
        self, preparation: Preparation, detector: FaceDetector | None, restorer: FaceRestorer | None = None
    ) -> None:
        """Take what is asked for, and who finds and restores faces where somebody does."""
        self.preparation = preparation
        self.detector = detector
        self.restorer = restorer

    @property
    def identity(self) -> str:
        """Hash of all that decides the pixels that become of a file: the same file and identity give the same."""
        found_by = self.detector.identity if self.detector else None
        restored_by = self.restorer.identity if self.restorer else None
        return sha256_hex(msgspec.json.encode((RECIPE, version("pillow"), self.preparation, found_by, restored_by)))

    def prepare(self, data: bytes) -> Prepared:
        """Prepare one picture file.

        Raises:
            UnreadablePicture: it can't be decoded. A restorer of another package may raise anything else.
        """
        image = decode(data, self.preparation.background)
        if self.restorer:
            image = self.restorer.restore(image, self.preparation.face_restore_upscale)
        faces = self.detector.find(image) if self.detector else None
        crop, size = self._framing(image, faces or ())
        trained = image.resize(size, Image.Resampling.LANCZOS, box=crop)
        facts = PictureFacts(
            picture=Size(*image.size),
            faces=faces,
            crop=crop,
            size=size,
            # What is enlarged is blurred by that, whether or not it was in focus.
            sharpness=sharpness(trained if size.width <= crop.size.width else image.crop(crop)),
            thumbnail=thumbnail(image),
        )
        return Prepared(trained, facts)

    def _framing(self, image: Image.Image, faces: tuple[Box, ...]) -> tuple[Box, Size]:
        """What part of a picture is trained on, and at what size."""
        picture, asked = Size(*image.size), Size(self.preparation.width, self.preparation.height)
        if faces and self.preparation.face_crop_ratio is not None:
            return around(picture, asked, biggest(faces), self.preparation.face_crop_ratio), asked
        size = bucket(picture, asked) if self.preparation.buckets else asked
        if self.preparation.face_crop_ratio is not None:
            center = (picture.width / 2, picture.height / 2)
        elif faces:
            center = heads_center(faces, cover(picture, size, (0, 0)).size)
        else:
            center = salient_center(image, size)
        return cover(picture, size, center), size
