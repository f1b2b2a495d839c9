"""What is declared is pinned: an extra that nobody has installed here too."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "constraints.txt").read_text().split()
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
DECLARED = [*PROJECT["dependencies"], *(item for extra in PROJECT["optional-dependencies"].values() for item in extra)]


@pytest.mark.parametrize("declared", DECLARED)
def test_every_declared_requirement_has_a_pin_that_fits(declared: str) -> None:
    requirement = Requirement(declared)
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_pins_are_exact_sorted_and_without_repetitions() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LINES)
    assert sorted(LINES, key=lambda line: line.partition("==")[0].lower()) == LINES
    assert len(PINS) == len(LINES)
