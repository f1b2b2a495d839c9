"""Computing children: what they inherit, and how they stand back."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from maquette.core.children import GIVEN_FD, lower_priority, start_child

SLEEPS = ("-c", "import time; time.sleep(60)")
LISTS = ("-c", "import os; print(sorted(int(name) for name in os.listdir('/proc/self/fd'))[:-1])")
AUTOGROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")


def test_child_inherits_what_it_is_given_and_no_stray_descriptor(tmp_path: Path) -> None:
    log = tmp_path / "log"
    given, stray = os.pipe()
    # Far up and in the very place where the child looks for the given one, or as near as this process lets us.
    strays = [stray, *(fcntl.fcntl(stray, fcntl.F_DUPFD, least) for least in (GIVEN_FD, 50, 200))]
    for number in strays:
        os.set_inheritable(number, True)
    child = start_child(LISTS, dict(os.environ), log, given)
    assert os.waitpid(child, 0) == (child, 0)
    assert log.read_text() == f"{[0, 1, 2, GIVEN_FD]}\n"
    for number in (given, *strays):
        os.close(number)


@pytest.mark.parametrize("nice", [0, 10])
def test_lowered_child_stands_back_also_among_sessions(tmp_path: Path, nice: int) -> None:
    with (tmp_path / "given").open("w") as given:
        child = start_child(SLEEPS, dict(os.environ), tmp_path / "log", given.fileno())
    try:
        before = os.getpriority(os.PRIO_PROCESS, child)
        lower_priority(child, nice)
        assert os.getpriority(os.PRIO_PROCESS, child) == max(before, nice)
        if AUTOGROUPS.exists() and AUTOGROUPS.read_text() == "1\n":
            assert Path(f"/proc/{child}/autogroup").read_text().endswith(f"nice {nice}\n")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_lowering_a_dead_child_is_harmless(tmp_path: Path) -> None:
    with (tmp_path / "given").open("w") as given:
        child = start_child(("-c", ""), dict(os.environ), tmp_path / "log", given.fileno())
    os.waitpid(child, 0)
    began = time.monotonic()
    lower_priority(child, 10)
    assert time.monotonic() - began < 5
