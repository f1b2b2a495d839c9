import os
import subprocess
import sys
from pathlib import Path

import msgspec

from maquette.core.processes import identify, is_alive


def test_this_process_is_itself() -> None:
    record = identify(os.getpid())
    assert record is not None
    assert record.pid == os.getpid()
    assert record.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert is_alive(record)


def test_the_start_time_is_the_one_the_kernel_tells() -> None:
    record = identify(os.getpid())
    assert record is not None
    seconds_since_boot = record.start_ticks / os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < seconds_since_boot <= uptime


def test_a_later_process_with_the_same_pid_is_another() -> None:
    record = identify(os.getpid())
    assert record is not None
    assert not is_alive(msgspec.structs.replace(record, start_ticks=record.start_ticks - 1))
    assert not is_alive(msgspec.structs.replace(record, boot_id="another boot"))


def test_a_command_name_with_parentheses_is_read_past(tmp_path: Path) -> None:
    script = tmp_path / "a) R 1 (b"
    script.symlink_to(sys.executable)
    with subprocess.Popen([script, "-c", "input()"], stdin=subprocess.PIPE) as child:
        record = identify(child.pid)
        assert record is not None
        assert record.start_ticks > 1
        assert is_alive(record)
        child.communicate(b"\n")


def test_a_zombie_and_a_reaped_child_are_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identify(child.pid) is None
    child.wait()
    assert identify(child.pid) is None
