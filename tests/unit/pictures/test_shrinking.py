import pytest
from PIL import Image

from maquette.pictures.shrinking import shrunk


@pytest.mark.parametrize(
    ("size", "small"),
    [((400, 200), (100, 50)), ((3, 4000), (1, 100)), ((100, 30), (100, 30)), ((7, 5), (7, 5)), ((101, 100), (100, 99))],
)
def test_the_longer_side_is_what_was_asked_for_and_the_shape_stays(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, "red")
    assert shrunk(image, 100).size == small
    assert shrunk(image, 100).getpixel((0, 0)) == (255, 0, 0)
    assert image.size == size
