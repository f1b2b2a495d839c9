"""Every registered family does what every family must; the same checks as `make families` prints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from maquette.families.registry import FAMILIES
from maquette.testing.conformance import CHECKS, NONE, NotApplicable, NotAsItMust, Subject, answer
from maquette.testing.tiny_bases import TINY_BASES

# The library's own warning, where a check calls it as it is.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")]

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
TOLERANCE = 5e-3
"""Share by which processors' sums may differ after some steps; other formulas differ by more."""


@pytest.fixture(scope="module", params=FAMILIES.names())
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(request.param, TINY_BASES.load(request.param), tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_family(subject: Subject, check: Callable[[Subject], None]) -> None:
    try:
        check(subject)
    except NotApplicable as error:
        pytest.skip(str(error))


def test_the_losses_of_ours_are_the_pinned_ones(subject: Subject) -> None:
    """A change that moves them changes what every LoRA learns: it must be meant, and pinned anew with its reason."""
    told = json.loads((GOLDEN / f"{subject.name}.json").read_text())
    assert subject.losses == pytest.approx(told, rel=TOLERANCE)


def test_a_table_tells_what_fails_from_what_does_not_apply(subject: Subject) -> None:
    def failing(_: Subject) -> None:
        raise NotAsItMust("it does not draw")

    def missing(_: Subject) -> None:
        raise NotApplicable

    assert answer(subject, failing) == "NotAsItMust: it does not draw"
    assert answer(subject, missing) == NONE
    assert answer(subject, lambda _: None) == ""
