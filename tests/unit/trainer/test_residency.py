"""Parts that don't fit beside each other take turns on the device."""

import pytest
import torch

from maquette.families.base import TEXT_ENCODERS, Part
from maquette.trainer.residency import Residency

pytestmark = pytest.mark.torch

CUDA = torch.device("cuda", 0)


class Moved(torch.nn.Linear):
    """A layer that knows where it was sent, on machines without such a place too."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.place = "cpu"
        self.moves = 0
        self.fails = False

    def to(self, place: object) -> "Moved":  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.fails:
            self.place = "half moved"
            raise torch.OutOfMemoryError
        self.place = str(place)
        self.moves += 1
        return self


class Parts:
    def __init__(self) -> None:
        self.modules = {
            Part.AUTOENCODER: [Moved()],
            Part.TRAINED_ENCODERS: [Moved(), Moved()],
            Part.FROZEN_ENCODERS: [Moved()],
            Part.DENOISER: [Moved()],
        }

    def there(self) -> set[Part]:
        return {part for part, modules in self.modules.items() if all(one.place == "cuda:0" for one in modules)}

    def places(self) -> dict[Part, set[str]]:
        return {part: {one.place for one in modules} for part, modules in self.modules.items()}

    def moves(self) -> int:
        return sum(one.moves for modules in self.modules.values() for one in modules)


@pytest.fixture
def parts() -> Parts:
    return Parts()


def apart(parts: Parts, *, together: bool = False) -> Residency:
    return Residency(parts, CUDA, together=together)  # pyright: ignore[reportArgumentType]


class TestApart:
    def test_only_what_is_at_work_is_on_the_device(self, parts: Parts) -> None:
        residency = apart(parts)
        for wanted in [(Part.AUTOENCODER,), TEXT_ENCODERS, (Part.DENOISER, Part.TRAINED_ENCODERS), tuple(Part)]:
            residency.bring(*wanted)
            assert parts.there() == set(wanted)

    def test_what_is_there_is_not_moved_again(self, parts: Parts) -> None:
        residency = apart(parts)
        residency.bring(Part.AUTOENCODER)
        before = parts.moves()
        residency.bring(Part.AUTOENCODER)
        assert parts.moves() == before

    @pytest.mark.parametrize("next_there", [(Part.DENOISER,), (Part.AUTOENCODER,), TEXT_ENCODERS, tuple(Part)])
    @pytest.mark.parametrize("failing", list(Part))
    def test_a_move_that_failed_is_made_good_by_the_next(
        self, parts: Parts, failing: Part, next_there: tuple[Part, ...]
    ) -> None:
        """Whether it was on its way to the device, or from it."""
        residency = apart(parts)
        residency.bring(Part.DENOISER)
        failing_module = parts.modules[failing][-1]
        failing_module.fails = True
        with pytest.raises(torch.OutOfMemoryError):
            residency.bring(Part.AUTOENCODER, *TEXT_ENCODERS)
        failing_module.fails = False
        residency.bring(*next_there)
        assert parts.places() == {part: {"cuda:0" if part in next_there else "cpu"} for part in Part}


def test_together_nothing_is_ever_moved(parts: Parts) -> None:
    apart(parts, together=True).bring(Part.AUTOENCODER)
    assert parts.moves() == 0
