import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.pictures.buckets import MAX_ASPECT, bucket, buckets
from maquette.pictures.crops import Size

sides = st.integers(1, 32).map(lambda multiple: multiple * 64)
asked_sizes = st.builds(Size, sides, sides)


@given(asked_sizes)
def test_every_bucket_fits_the_autoencoders_and_has_no_more_pixels_than_asked(asked: Size) -> None:
    for size in buckets(asked):
        assert size.width % 64 == size.height % 64 == 0
        assert 0 < size.width * size.height <= asked.width * asked.height
        assert size == asked or max(size) <= MAX_ASPECT * min(size)


@given(st.builds(Size, st.integers(1, 4000), st.integers(1, 4000)), asked_sizes)
def test_a_picture_gets_the_bucket_of_the_nearest_shape(picture: Size, asked: Size) -> None:
    aspect = picture.width / picture.height

    def off(size: Size) -> float:
        return max(aspect / (size.width / size.height), size.width / size.height / aspect)

    assert off(bucket(picture, asked)) == pytest.approx(min(off(size) for size in buckets(asked)))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((1000, 1000), (1024, 1024)),
        ((1500, 1000), (1216, 832)),
        ((1000, 1500), (832, 1216)),
        ((3000, 4000), (896, 1152)),
        ((1000, 9000), (704, 1408)),
    ],
)
def test_the_buckets_of_1024_are_those_that_bases_were_trained_in(
    picture: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert bucket(Size(*picture), Size(1024, 1024)) == expected
