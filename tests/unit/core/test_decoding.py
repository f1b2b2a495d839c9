import io
import struct

import pytest
from PIL import Image, ImageCms

from maquette.core.decoding import UnreadablePicture, decode

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **save: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **save)
    return file.getvalue()


def decoded(image: Image.Image, kind: str = "PNG", background: str = "#ffffff", **save: object) -> Image.Image:
    result = decode(encoded(image, kind, **save), background)
    assert result.mode == "RGB"
    return result


def test_a_picture_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (60, 30), RED)
    image.paste(BLUE, (30, 0, 60, 30))
    upright = decoded(image, exif=exif)
    assert upright.size == (30, 60)
    assert (upright.getpixel((15, 4)), upright.getpixel((15, 55))) == (RED, BLUE)


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0", b"Exif\0\0words", b"no EXIF at all"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_camera_that_talks_nonsense_spoils_no_picture(kind: str, exif: bytes) -> None:
    assert decoded(Image.new("RGB", (60, 30), RED), kind, exif=exif).size == (60, 30)


def test_transparency_shows_the_background() -> None:
    assert decoded(Image.new("RGBA", (7, 7), (255, 0, 0, 0))).getpixel((3, 3)) == WHITE
    assert decoded(Image.new("RGBA", (7, 7), (255, 0, 0, 0)), background="#00ff00").getpixel((3, 3)) == GREEN
    half = decoded(Image.new("RGBA", (7, 7), (255, 0, 0, 128)), background="#000000").getpixel((3, 3))
    assert half == pytest.approx((128, 0, 0), abs=1)


def test_a_palette_with_a_transparent_colour_shows_the_background() -> None:
    paletted = Image.new("P", (7, 7), 1)
    paletted.putpalette([*RED, *GREEN])
    assert decoded(paletted, transparency=1).getpixel((3, 3)) == WHITE
    assert decoded(paletted, transparency=0).getpixel((3, 3)) == GREEN


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("L", 100, 100), ("I;16", 100 * 256 + 255, 100), ("I;16", 65535, 255), ("1", 1, 255)],
)
def test_grey_pictures_keep_their_brightness(mode: str, value: int, expected: int) -> None:
    assert decoded(Image.new(mode, (7, 7), value)).getpixel((3, 3)) == (expected,) * 3


def test_four_printing_colours_become_three() -> None:
    image = decoded(Image.new("CMYK", (7, 7), (0, 255, 255, 0)), "JPEG", quality=100)
    assert image.getpixel((3, 3)) == pytest.approx(RED, abs=4)


def test_colours_are_read_through_the_embedded_profile() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A device whose red channel shines green, and the other way round.
    swapped = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    red = Image.new("RGB", (7, 7), RED)
    assert decoded(red, icc_profile=profile).getpixel((3, 3)) == pytest.approx(RED, abs=1)
    assert decoded(red, icc_profile=swapped).getpixel((3, 3)) == pytest.approx(GREEN, abs=1)


def test_every_mode_is_read_through_its_profile_and_keeps_its_transparency() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    paletted = Image.new("P", (7, 7), 0)
    paletted.putpalette([*RED, *BLUE])
    paletted.putpixel((1, 1), 1)
    for image, transparency in ((paletted, 1), (paletted, b"\xff\0"), (paletted.convert("RGB"), BLUE)):
        through = decoded(image, icc_profile=swapped, transparency=transparency)
        assert through.getpixel((3, 3)) == pytest.approx(GREEN, abs=1)
        assert through.getpixel((1, 1)) == WHITE
    assert decoded(paletted, icc_profile=swapped).getpixel((3, 3)) == pytest.approx(GREEN, abs=1)
    clear = paletted.convert("RGBA")
    clear.putpixel((1, 1), (*BLUE, 0))
    assert decoded(clear, icc_profile=swapped).getpixel((1, 1)) == WHITE
    assert decoded(clear, icc_profile=swapped).getpixel((3, 3)) == pytest.approx(GREEN, abs=1)


def grey_profile(gamma: int) -> bytes:
    """A whole profile of one channel whose light is its number's power."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, gamma << 8) + bytes(2)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(white), b"kTRC", 156 + len(white), len(curve))
    body = tags + white + curve
    header = struct.pack(">II4s4s4s4s", 128 + len(body), 0, b"\x02\x10\0\0", b"mntr", b"GRAY", b"XYZ ")
    return header + bytes(12) + b"acsp" + bytes(28) + white[8:] + bytes(48) + body


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_is_read_through_its_profile_with_or_without_transparency(mode: str) -> None:
    grey = Image.new("L", (7, 7), 128).convert(mode)
    if mode == "LA":
        grey.putpixel((1, 1), (128, 0))
    through = decoded(grey, icc_profile=grey_profile(1))
    # Half of the light is a good deal brighter than the middle of sRGB's numbers.
    assert through.getpixel((3, 3)) == pytest.approx((188, 188, 188), abs=2)
    assert through.getpixel((1, 1)) == (WHITE if mode == "LA" else through.getpixel((3, 3)))


def test_a_broken_profile_counts_as_none() -> None:
    assert decoded(Image.new("RGB", (7, 7), RED), icc_profile=b"no profile").getpixel((3, 3)) == RED


def cut_off(image: Image.Image, kind: str) -> bytes:
    whole = encoded(image, kind)
    return whole[: len(whole) // 2]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"only words", id="text"),
        pytest.param(b"", id="nothing"),
        pytest.param(cut_off(Image.effect_noise((60, 60), 90).convert("RGB"), "JPEG"), id="cut-off-jpeg"),
        pytest.param(cut_off(Image.effect_noise((60, 60), 90), "PNG"), id="cut-off-png"),
        pytest.param(cut_off(Image.effect_noise((60, 60), 90).convert("RGB"), "WEBP"), id="cut-off-webp"),
        pytest.param(b"GIF89a" + bytes(20), id="a-format-we-refuse"),
    ],
)
def test_what_is_no_whole_picture_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadablePicture, match="the picture can't be read"):
        decode(content, "#ffffff")
