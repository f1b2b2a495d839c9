"""`make help` knows every command, and there is a command for every benchmark."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
BENCHMARKS = [path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]


def test_every_command_has_a_line_of_help() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split()
    assert re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE) == phony


@pytest.mark.parametrize("script", BENCHMARKS)
def test_every_benchmark_has_a_command(script: str) -> None:
    assert f"$(BIN)/python benchmarks/{script}" in MAKEFILE
