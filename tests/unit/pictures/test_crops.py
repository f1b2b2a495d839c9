import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.pictures.crops import Box, Size, around, biggest, cover, head, heads_center

sizes = st.builds(Size, st.integers(1, 3000), st.integers(1, 3000))
shapes = st.builds(Size, st.integers(1, 32), st.integers(1, 32)).map(lambda size: Size(size[0] * 64, size[1] * 64))
points = st.tuples(st.floats(-100, 4000), st.floats(-100, 4000))
faces = st.builds(
    lambda left, top, side: Box(left, top, left + side, top + side),
    st.integers(0, 2000),
    st.integers(0, 2000),
    st.integers(1, 900),
)


def inside(box: Box, picture: Size) -> bool:
    return 0 <= box.left < box.right <= picture.width and 0 <= box.top < box.bottom <= picture.height


@given(sizes, shapes, points)
def test_a_cover_is_inside_as_large_as_can_be_and_of_its_shape(
    picture: Size, shape: Size, center: tuple[float, float]
) -> None:
    box = cover(picture, shape, center)
    assert inside(box, picture)
    assert box.size.width == picture.width or box.size.height == picture.height
    assert box.size.width * shape.height == pytest.approx(box.size.height * shape.width, abs=max(shape))


@given(sizes, shapes, faces, st.floats(0.1, 10))
def test_a_crop_around_a_face_never_leaves_the_picture(picture: Size, shape: Size, face: Box, ratio: float) -> None:
    assert inside(around(picture, shape, face, ratio), picture)


@pytest.mark.parametrize(
    ("center", "expected"),
    [((300, 50), Box(250, 0, 350, 100)), ((0, 50), Box(0, 0, 100, 100)), ((399, 50), Box(300, 0, 400, 100))],
)
def test_a_cover_lies_around_its_centre_as_far_as_the_picture_goes(center: tuple[float, float], expected: Box) -> None:
    assert cover(Size(400, 100), Size(64, 64), center) == expected


def test_the_ratio_is_that_of_the_crops_shorter_side_to_the_face() -> None:
    face = Box(400, 400, 500, 480)
    assert around(Size(1000, 1000), Size(512, 512), face, 1.0) == Box(400, 390, 500, 490)
    assert around(Size(1000, 1000), Size(512, 512), face, 2.0) == Box(350, 340, 550, 540)
    assert around(Size(1000, 1000), Size(512, 1024), face, 1.0).size == (100, 200)
    assert around(Size(1000, 1000), Size(512, 512), face, 10.0) == Box(0, 0, 1000, 1000)


def test_a_head_reaches_above_its_face() -> None:
    assert head(Box(100, 100, 200, 200)) == Box(75, 40, 225, 225)


def test_all_heads_stay_in_the_middle_where_there_is_room_else_the_biggest() -> None:
    small, large = Box(100, 100, 140, 140), Box(300, 100, 400, 200)
    assert biggest([small, large]) == large
    both = Box(90, 40, 425, 225)
    assert heads_center([small, large], Size(400, 400)) == both.center
    assert heads_center([small, large], Size(300, 400)) == head(large).center
