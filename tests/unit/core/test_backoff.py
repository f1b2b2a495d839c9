import pytest

from maquette.core.backoff import back_off


@pytest.mark.parametrize(
    ("failures", "expected"), [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10_000, 60.0)]
)
def test_pauses_double_up_to_a_minute(failures: int, expected: float) -> None:
    assert back_off(failures) == expected


def test_where_they_begin_and_end_is_the_callers_choice() -> None:
    assert [back_off(count, first=0.2, longest=30.0) for count in (1, 2, 3, 99)] == [0.2, 0.4, 0.8, 30.0]
