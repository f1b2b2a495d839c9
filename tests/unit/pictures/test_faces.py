import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from maquette.pictures.crops import Box
from maquette.pictures.faces import BrokenDetector, FaceDetector, load_detector
from maquette.testing.face_model import red_squares

FACE = Box(178, 69, 270, 161)
"""Of the astronaut, from eyebrows to chin."""


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    found = load_detector("")
    assert found is not None
    return found


def near(found: Box, wanted: Box, pixels: float) -> bool:
    return all(abs(one - other) <= pixels for one, other in zip(found, wanted, strict=True))


def test_the_face_of_a_photograph_is_found(detector: FaceDetector, astronaut: Image.Image) -> None:
    (face,) = detector.find(astronaut)
    assert near(face, FACE, 8)


def test_it_is_found_where_it_is_at_other_sizes_and_places(detector: FaceDetector, astronaut: Image.Image) -> None:
    large = Image.new("RGB", (2400, 1600), (90, 110, 100))
    large.paste(astronaut.resize((1024, 1024)), (1300, 400))
    (face,) = detector.find(large)
    assert near(face, Box(*(2 * side + (1300, 400)[index % 2] for index, side in enumerate(FACE))), 40)


def test_two_faces_are_two(detector: FaceDetector, astronaut: Image.Image) -> None:
    both = Image.new("RGB", (1024, 512))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut, (512, 0))
    assert len(detector.find(both)) == 2


@pytest.mark.parametrize("size", [(1, 1), (30, 3), (300, 300)])
def test_there_is_none_where_there_is_none(detector: FaceDetector, size: tuple[int, int]) -> None:
    assert detector.find(Image.new("RGB", size, "green")) == ()


def test_a_detector_says_who_it_is(detector: FaceDetector) -> None:
    assert "haarcascade_frontalface" in detector.identity
    assert "OpenCV 4." in detector.identity


@pytest.fixture(scope="module")
def yunet(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    """Takes red squares of 32 pixels for faces of 64."""
    model = tmp_path_factory.mktemp("models") / "yunet.onnx"
    model.write_bytes(red_squares())
    found = load_detector(str(model))
    assert found is not None
    return found


@pytest.mark.parametrize("model", ["detector", "yunet"])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 3), (3, 3), (1, 5000), (5000, 1)])
def test_there_is_no_face_in_what_is_hardly_a_picture(
    request: pytest.FixtureRequest, model: str, size: tuple[int, int]
) -> None:
    assert request.getfixturevalue(model).find(Image.effect_noise(size, 99).convert("RGB")) == ()


class TestYuNet:
    @pytest.mark.parametrize("scale", [1, 2])
    def test_it_finds_what_its_model_finds_at_any_size(self, yunet: FaceDetector, scale: int) -> None:
        image = Image.new("RGB", (640 * scale, 448 * scale))
        image.paste("blue", (64 * scale, 64 * scale, 96 * scale, 96 * scale))
        assert yunet.find(image) == ()
        image.paste("red", (320 * scale, 128 * scale, 352 * scale, 160 * scale))
        assert yunet.find(image) == (Box(*(side * scale for side in (304, 112, 368, 176))),)

    def test_the_surest_comes_first_and_boxes_stay_inside(self, yunet: FaceDetector) -> None:
        image = Image.new("RGB", (320, 192))
        image.paste((230, 0, 0), (0, 0, 32, 32))
        image.paste((250, 0, 0), (288, 160, 320, 192))
        image.paste((100, 0, 0), (128, 64, 160, 96))
        assert yunet.find(image) == (Box(272, 144, 320, 192), Box(0, 0, 48, 48))

    def test_it_is_known_by_its_models_content(self, yunet: FaceDetector, tmp_path: Path) -> None:
        (tmp_path / "copy.onnx").write_bytes(red_squares())
        copy = load_detector(str(tmp_path / "copy.onnx"))
        assert copy is not None
        assert copy.identity == yunet.identity


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_model_that_is_none_is_refused_by_the_settings_name(tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "yunet.onnx"
    if content is not None:
        model.write_bytes(content)
    with pytest.raises(BrokenDetector, match=r"^MAQUETTE_FACE_DETECTOR: .*yunet.onnx is no YuNet model .* leave it"):
        load_detector(str(model))


def test_without_opencv_there_is_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maquette.pictures.faces.find_spec", lambda name: None)
    assert importlib.util.find_spec("cv2")
    assert load_detector("") is None
