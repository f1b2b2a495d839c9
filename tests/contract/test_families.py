"""Every family of ours does what every family must; the same checks as `make families` prints."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator

import pytest

from maquette.families.registry import FAMILIES
from maquette.testing.conformance import CHECKS, FAILED, NONE, OK, Cell, NotAsItMust, Subject, answer
from maquette.testing.tiny_bases import TINY_BASES

# The library's own warning, where a check calls it as it is.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")]

SLOW = {("flux1", "single file"), ("flux1", "kohya in diffusers")}
"""On a base of two gigabytes, as wide as published ones."""
CELLS = [
    pytest.param(family, column, marks=[pytest.mark.slow] if (family, column) in SLOW else [])
    for family in FAMILIES.own_names()
    for column in CHECKS
]


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Subject]:
    root = tmp_path_factory.mktemp(request.param)
    yield Subject(request.param, TINY_BASES.load(request.param), root)
    shutil.rmtree(root)


@pytest.mark.parametrize(("subject", "column"), CELLS, indirect=["subject"])
def test_a_family(subject: Subject, column: str) -> None:
    """Of ours none is excused from a check: diffusers does with each what they ask for."""
    CHECKS[column](subject)


def test_nothing_but_the_table_is_printed() -> None:
    """As `make families` does it; libraries have much to say while bases are made and loaded."""
    one_column = "from maquette.testing import conformance as c; c.CHECKS = {'folder': c.loads_a_folder}"
    printed = subprocess.run(
        [sys.executable, "-c", f"{one_column}; c.main(['sd15'])"],
        env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert [line.split() for line in printed.stdout.splitlines()] == [["family", "folder"], ["sd15", OK]]


@pytest.mark.parametrize("subject", FAMILIES.own_names(), indirect=True)
def test_a_table_tells_what_fails_from_what_does_not_apply(subject: Subject) -> None:
    def failing(_: Subject) -> None:
        raise NotAsItMust("it does not draw")

    def without(subject: Subject) -> None:
        subject.needs("from_nothing")

    library = subject.library.__name__
    assert answer(subject, failing) == Cell(FAILED, "NotAsItMust: it does not draw")
    assert answer(subject, without) == Cell(NONE, f"diffusers' {library} has no from_nothing")
    assert answer(subject, lambda _: None) == Cell(OK)
