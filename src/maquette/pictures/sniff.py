"""What a stream of bytes is, told from its bytes alone: format, size in pixels, and whether it is whole.

Nothing is decoded here and nothing is kept: a file of any length is read in the chunks it arrives in.

Sources: JPEG is ITU-T T.81 annex B, PNG is W3C PNG (third edition) section 5, WebP is RFC 9649.
"""

from collections.abc import Generator
from typing import Literal

from msgspec import Struct

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.picture_format import PictureFormat

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"

UNKNOWN = "the bytes are neither a JPEG, a PNG nor a WebP picture; send one of these"


class PictureHeader(Struct, frozen=True):
    """Format and size in pixels, as the file's header states them."""

    format: PictureFormat
    width: int
    height: int


class InvalidPicture(MaquetteError):
    """The bytes are no picture we take, or not a whole one."""

    def __init__(self, problem: str) -> None:
        super().__init__(ErrorReason.INVALID_IMAGE_FORMAT, problem)


class Sniffer:
    """Reads a picture's structure from chunks: feed every one in order, then call `finish`.

    Attributes:
        header: known as soon as the bytes that state it were fed.
    """

    def __init__(self) -> None:
        self.header: PictureHeader | None = None
        self._received = 0
        self._ended = False
        self._buffer = bytearray()
        self._reader = self._read()
        next(self._reader)

    def feed(self, chunk: bytes) -> None:
        """Read on.

        Raises:
            InvalidPicture: the bytes can't be the beginning of a picture we take.
        """
        self._received += len(chunk)
        if self._ended:
            return
        self._buffer += chunk
        try:
            next(self._reader)
        except StopIteration:
            self._ended = True

    def finish(self) -> PictureHeader:
        """The header of a picture that is whole.

        Raises:
            InvalidPicture: nothing was fed, or the picture breaks off before its end.
        """
        if self._received == 0:
            raise InvalidPicture("the upload is empty; send the picture's bytes as the body")
        if self.header is None or not self._ended:
            raise InvalidPicture(f"the picture is truncated: it breaks off after {self._received} bytes")
        return self.header

    # The readers below are generators that yield whenever they need another chunk, so that each reads from top to
    # bottom like its format's own description.

    def _read(self) -> Generator[None]:
        magic = yield from self._take(3)
        if magic == b"\xff\xd8\xff":
            yield from self._read_jpeg()
        elif magic == b"\x89PN":
            yield from self._read_png()
        elif magic == b"RIF":
            yield from self._read_webp()
        else:
            raise InvalidPicture(UNKNOWN)

    def _read_jpeg(self) -> Generator[None]:
        """Segments up to the first scan, then the end-of-image marker anywhere behind it.

        Thumbnails lie inside segments, which are skipped by their length; within entropy-coded data FF is always
        followed by 00 or a restart marker, so FFD9 is the end. What cameras append behind it is no concern of ours.
        """
        while (marker := (yield from self._jpeg_marker())) != _START_OF_SCAN:
            length = yield from self._number(2)
            if length < 2:
                raise InvalidPicture("the JPEG is damaged: a segment has no length")
            if marker in _START_OF_FRAME:
                yield from self._skip(1)
                height = yield from self._number(2)
                width = yield from self._number(2)
                self._found(PictureFormat.JPEG, width, height)
                length -= 5
            yield from self._skip(length - 2)
            if (yield from self._take(1)) != b"\xff":
                raise InvalidPicture("the JPEG is damaged: a segment does not begin with a marker")
        if self.header is None:
            raise InvalidPicture("the JPEG is damaged: no frame header comes before its first scan")
        yield from self._find(_END_OF_IMAGE)

    def _jpeg_marker(self) -> Generator[None, None, int]:
        """The marker's second byte; any number of FF may fill the space before it."""
        while (marker := (yield from self._number(1))) == 0xFF:
            pass
        return marker

    def _read_png(self) -> Generator[None]:
        """Chunks from IHDR to IEND; each is its length, its type, its data and a checksum of 4 bytes."""
        if (yield from self._take(5)) != b"G\r\n\x1a\n":
            raise InvalidPicture(UNKNOWN)
        kind = b""
        while kind != b"IEND":
            length = yield from self._number(4)
            kind = yield from self._take(4)
            if self.header is None:
                if kind != b"IHDR" or length != 13:
                    raise InvalidPicture("the PNG is damaged: its first chunk is no header")
                width = yield from self._number(4)
                height = yield from self._number(4)
                self._found(PictureFormat.PNG, width, height)
                length -= 8
            yield from self._skip(length + 4)

    def _read_webp(self) -> Generator[None]:
        """One RIFF container whose first chunk states the size; the container's own length says where it ends."""
        if (yield from self._take(1)) != b"F":
            raise InvalidPicture(UNKNOWN)
        container = yield from self._number(4, "little")
        if (yield from self._take(4)) != b"WEBP":
            raise InvalidPicture(UNKNOWN)
        kind = yield from self._take(4)
        yield from self._skip(4)
        head = yield from self._take(10)
        match kind:
            case b"VP8X":
                width = int.from_bytes(head[4:7], "little") + 1
                height = int.from_bytes(head[7:10], "little") + 1
            case b"VP8L" if head[0] == 0x2F:
                bits = int.from_bytes(head[1:5], "little")
                width = (bits & 0x3FFF) + 1
                height = (bits >> 14 & 0x3FFF) + 1
            case b"VP8 " if head[3:6] == b"\x9d\x01\x2a":
                width = int.from_bytes(head[6:8], "little") & 0x3FFF
                height = int.from_bytes(head[8:10], "little") & 0x3FFF
            case _:
                raise InvalidPicture("the WebP is damaged: its first chunk is no picture")
        self._found(PictureFormat.WEBP, width, height)
        read_so_far = 4 + 8 + len(head)
        yield from self._skip(max(0, container - read_so_far))

    def _found(self, kind: PictureFormat, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise InvalidPicture(f"the {kind.upper()} header states a size of {width}x{height} pixels")
        self.header = PictureHeader(kind, width, height)

    def _take(self, count: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < count:
            yield
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _number(self, size: int, byteorder: Literal["big", "little"] = "big") -> Generator[None, None, int]:
        return int.from_bytes((yield from self._take(size)), byteorder)

    def _skip(self, count: int) -> Generator[None]:
        while len(self._buffer) < count:
            count -= len(self._buffer)
            self._buffer.clear()
            yield
        del self._buffer[:count]

    def _find(self, marker: bytes) -> Generator[None]:
        while (position := self._buffer.find(marker)) < 0:
            del self._buffer[: max(0, len(self._buffer) - len(marker) + 1)]
            yield
        del self._buffer[: position + len(marker)]
