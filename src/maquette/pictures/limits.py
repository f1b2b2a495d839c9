"""How large a picture may be, and one pass over an upload that holds it to that."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from msgspec import Struct

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.pictures.sniff import PictureHeader, Sniffer


class PictureLimits(Struct, frozen=True):
    """What an upload may be at most, in bytes and in pixels (width times height)."""

    max_bytes: int
    max_pixels: int

    def check_bytes(self, size: int) -> None:
        """Hold a size in bytes, declared or counted, to the limit.

        Raises:
            MaquetteError: IMAGE_FILE_EXCEEDS_MAX_SIZE.
        """
        if size > self.max_bytes:
            raise MaquetteError(
                ErrorReason.IMAGE_FILE_EXCEEDS_MAX_SIZE,
                f"the picture is larger than {self.max_bytes} bytes; send a smaller or more compressed one",
            )

    def check_pixels(self, header: PictureHeader) -> None:
        """Hold a picture's size to the limit.

        Raises:
            MaquetteError: IMAGE_EXCEEDS_MAX_RESOLUTION.
        """
        if header.width * header.height > self.max_pixels:
            raise MaquetteError(
                ErrorReason.IMAGE_EXCEEDS_MAX_RESOLUTION,
                f"the picture has {header.width}x{header.height} pixels; at most {self.max_pixels} are allowed,"
                " scale it down",
            )


class Checked(Struct, frozen=True):
    """What a pass over a whole upload found; `sha256` is the hex digest of its bytes."""

    header: PictureHeader
    size: int
    sha256: str


class PictureCheck:
    """Lets an upload through chunk by chunk and breaks it off at the first thing that is wrong with it."""

    def __init__(self, limits: PictureLimits) -> None:
        self._limits = limits
        self._sniffer = Sniffer()
        self._digest = hashlib.sha256()
        self._size = 0
        self._header: PictureHeader | None = None

    async def passing(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The same chunks.

        Raises:
            MaquetteError: the picture is too large in bytes or pixels.
            InvalidPicture: it is none that we take, or breaks off. Raised after the last chunk at the latest, so that
                whoever stores the stream never completes an object.
        """
        async for chunk in chunks:
            self._size += len(chunk)
            self._limits.check_bytes(self._size)
            self._sniffer.feed(chunk)
            if self._sniffer.header is not None:
                self._limits.check_pixels(self._sniffer.header)
            self._digest.update(chunk)
            yield chunk
        self._header = self._sniffer.finish()

    def result(self) -> Checked:
        """What the pass found; only after it went through."""
        assert self._header is not None, "the upload has not gone through yet"
        return Checked(self._header, self._size, self._digest.hexdigest())
