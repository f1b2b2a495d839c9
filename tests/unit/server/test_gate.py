import pytest

from maquette.core.drawing import Difference
from maquette.server.models.gate import objection
from maquette.serving.base import Comparison

AWAY = Difference(mean=40.0, largest=200)


def compared(mean: float, largest: int, base: Difference = AWAY) -> Comparison:
    return Comparison(from_sample=Difference(mean=mean, largest=largest), from_base=base, versions={})


@pytest.mark.parametrize(("mean", "largest"), [(0.0, 0), (0.004, 1), (0.5, 16)])
def test_what_the_same_model_was_measured_to_differ_by_passes(mean: float, largest: int) -> None:
    assert objection(compared(mean, largest)) == ""


@pytest.mark.parametrize(
    ("mean", "largest"), [(1.19, 32), (0.4, 32), (1.19, 10), (2.2, 159), (50.0, 255), (0.51, 16), (0.5, 17)]
)
def test_the_nearest_wrong_picture_does_not(mean: float, largest: int) -> None:
    assert objection(compared(mean, largest)).startswith(
        f"its sample, drawn here, differs from the trainer's by {mean:.2f} in the mean and {largest} at most"
    )


def test_a_sample_that_was_drawn_with_nothing_does_not() -> None:
    assert objection(compared(0.0, 0, Difference(mean=0.0, largest=0))).startswith("it changes nothing")


@pytest.mark.parametrize(("mean", "largest"), [(0.008, 2), (0.001, 1)])
def test_what_learned_slowly_and_not_for_long_passes(mean: float, largest: int) -> None:
    """As with the lowest published rate, 1e-6, and a few steps."""
    assert objection(compared(0.0, 0, Difference(mean=mean, largest=largest))) == ""
