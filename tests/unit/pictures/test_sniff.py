"""Pictures are told by their bytes, in whatever chunks they come."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maquette.core.picture_format import PictureFormat
from maquette.pictures.sniff import InvalidPicture, PictureHeader, Sniffer


def encode(kind: str, size: tuple[int, int] = (61, 47), mode: str = "RGB", **options: Any) -> bytes:
    picture = Image.radial_gradient("L").resize(size).convert(mode)
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def sniff(data: bytes, chunk: int = 1 << 20) -> PictureHeader:
    sniffer = Sniffer()
    for start in range(0, len(data), chunk):
        sniffer.feed(data[start : start + chunk])
    return sniffer.finish()


def exif_with_thumbnail() -> bytes:
    """EXIF data that holds a whole JPEG, as cameras write it."""
    return b"Exif\x00\x00" + encode("jpeg", (16, 16))


PICTURES = {
    "jpeg": (PictureFormat.JPEG, encode("jpeg")),
    "jpeg progressive": (PictureFormat.JPEG, encode("jpeg", progressive=True)),
    "jpeg grey": (PictureFormat.JPEG, encode("jpeg", mode="L")),
    "jpeg cmyk": (PictureFormat.JPEG, encode("jpeg", mode="CMYK")),
    "jpeg with thumbnail": (PictureFormat.JPEG, encode("jpeg", exif=exif_with_thumbnail())),
    "jpeg with long profile": (PictureFormat.JPEG, encode("jpeg", icc_profile=bytes(200_000))),
    "jpeg with restarts": (PictureFormat.JPEG, encode("jpeg", (200, 200), restart_marker_blocks=2)),
    "png": (PictureFormat.PNG, encode("png")),
    "png alpha": (PictureFormat.PNG, encode("png", mode="RGBA")),
    "png palette": (PictureFormat.PNG, encode("png", mode="P")),
    "webp": (PictureFormat.WEBP, encode("webp")),
    "webp lossless": (PictureFormat.WEBP, encode("webp", lossless=True)),
    "webp alpha": (PictureFormat.WEBP, encode("webp", mode="LA")),
    "webp with profile": (PictureFormat.WEBP, encode("webp", icc_profile=bytes(100))),
}
NAMES = pytest.mark.parametrize("name", PICTURES)


@NAMES
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000, 1 << 20])
def test_format_and_size(name: str, chunk: int) -> None:
    kind, data = PICTURES[name]
    assert sniff(data, chunk) == PictureHeader(kind, *Image.open(BytesIO(data)).size)


@NAMES
def test_every_truncation_is_noticed(name: str) -> None:
    _, data = PICTURES[name]
    steps = {*range(0, len(data), max(1, len(data) // 97)), len(data) - 1, len(data) - 2}
    for length in steps:
        with pytest.raises(InvalidPicture):
            sniff(data[:length])


@NAMES
def test_what_cameras_append_is_no_concern(name: str) -> None:
    kind, data = PICTURES[name]
    assert sniff(data + b"\x00" * 1000 + b"ftypmp42", 100).format is kind


@NAMES
def test_the_header_is_known_before_the_end(name: str) -> None:
    _, data = PICTURES[name]
    sniffer = Sniffer()
    sniffer.feed(data[:-3])
    assert sniffer.header is not None


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"hello, I am a text file named .png\n" * 100,
        b"GIF89a" + bytes(100),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\x89PNG, they said" + bytes(100),
        b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(100),
        b"RIFF\xff\x00\x00\x00WEBPABCD" + bytes(300),
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\x00\x01" + bytes(100),
        b"\xff\xd8\xff\xe0\x00\x04ab" + bytes(100),
        b"\xff\xd8\xff\xda" + bytes(100) + b"\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x10\x01\x01\x11\x00\xff\xda\xff\xd9",
        PICTURES["png"][1].replace(b"IHDR", b"JHDR"),
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(InvalidPicture) as refused:
        sniff(data)
    assert refused.value.reason == "INVALID_IMAGE_FORMAT"


def test_nothing_at_all() -> None:
    with pytest.raises(InvalidPicture, match="the upload is empty"):
        Sniffer().finish()


def test_text_is_refused_at_its_first_bytes() -> None:
    with pytest.raises(InvalidPicture, match="neither a JPEG, a PNG nor a WebP"):
        Sniffer().feed(b"tex")


@given(st.sampled_from(sorted(PICTURES)), st.binary(max_size=40), st.floats(0, 1), st.integers(1, 300))
def test_damage_is_an_error_or_a_header_and_never_a_crash(name: str, damage: bytes, where: float, chunk: int) -> None:
    _, data = PICTURES[name]
    at = int(where * len(data))
    try:
        header = sniff(data[:at] + damage + data[at + len(damage) :], chunk)
    except InvalidPicture:
        return
    assert header.width > 0
    assert header.height > 0


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPicture):
        sniff(data)


def test_memory_stays_small_however_long_the_picture_is() -> None:
    sniffer = Sniffer()
    sniffer.feed(b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00\xff\xda")
    for _ in range(100):
        sniffer.feed(bytes(100_000))
        assert len(sniffer._buffer) < 10
