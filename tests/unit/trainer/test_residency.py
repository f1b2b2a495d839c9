"""Parts that don't fit beside each other take turns on the device."""

import pytest
import torch

from maquette.families.base import Part
from maquette.trainer.residency import Residency

pytestmark = pytest.mark.torch

CUDA = torch.device("cuda", 0)


class Moved(torch.nn.Linear):
    """A layer that knows where it was sent, on machines without such a place too."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.place = "cpu"
        self.moves = 0

    def to(self, place: object) -> "Moved":  # pyright: ignore[reportIncompatibleMethodOverride]
        self.place = str(place)
        self.moves += 1
        return self


class Parts:
    def __init__(self) -> None:
        self.modules = {
            Part.AUTOENCODER: [Moved()],
            Part.TEXT_ENCODERS: [Moved(), Moved()],
            Part.DENOISER: [Moved()],
        }

    def there(self) -> set[Part]:
        return {part for part, modules in self.modules.items() if all(one.place == "cuda:0" for one in modules)}

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
        for wanted in [(Part.AUTOENCODER,), (Part.TEXT_ENCODERS,), (Part.DENOISER, Part.TEXT_ENCODERS), tuple(Part)]:
            residency.bring(*wanted)
            assert parts.there() == set(wanted)

    def test_what_is_there_is_not_moved_again(self, parts: Parts) -> None:
        residency = apart(parts)
        residency.bring(Part.AUTOENCODER)
        before = parts.moves()
        residency.bring(Part.AUTOENCODER)
        assert parts.moves() == before


def test_together_nothing_is_ever_moved(parts: Parts) -> None:
    apart(parts, together=True).bring(Part.AUTOENCODER)
    assert parts.moves() == 0
