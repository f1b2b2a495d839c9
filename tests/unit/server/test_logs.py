"""Log lines of a process of its own, since logging is set up once per process."""

import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from maquette.server.logs import configure_logs
from maquette.server.settings import LogFormat

configure_logs(LogFormat("{format}"))

def work():
    secret = "hunter" + "2" * 3
    raise ValueError("went wrong")

try:
    work()
except ValueError:
    structlog.get_logger().exception("turn failed")
"""


@pytest.mark.parametrize("format", ["console", "json"])
def test_an_exception_is_told_without_the_values_in_its_frames(format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(format=format)], capture_output=True, text=True, check=True
    )
    assert "turn failed" in done.stderr
    assert "went wrong" in done.stderr
    assert "hunter222" not in done.stderr
    assert done.stdout == ""
