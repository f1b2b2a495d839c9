import pytest

from maquette.server.loops.pauses import pause_after


@pytest.mark.parametrize(
    ("interval", "failures", "expected"),
    [(0.5, 0, 0.5), (0.5, 1, 1.0), (0.5, 4, 8.0), (0.5, 9, 30.0), (0.5, 5000, 30.0), (60.0, 3, 60.0)],
)
def test_a_failing_loop_backs_off_up_to_a_bound(interval: float, failures: int, expected: float) -> None:
    assert pause_after(interval, failures) == expected
