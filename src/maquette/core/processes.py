"""Which process is it: telling one from a later one that was given the same pid."""

from pathlib import Path

from maquette.core.rundir import ProcessRecord

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
VMSTAT = PROC / "vmstat"

# Fields of /proc/<pid>/stat counted from the state, which follows the command's closing parenthesis (proc(5)).
STATE = 0
START_TICKS = 19
DEAD_STATES = frozenset("ZXx")


def identify(pid: int) -> ProcessRecord | None:
    """The record of a process that lives now, or None.

    A zombie counts as dead: it runs no more, it only waits for its parent. Two records are equal exactly
    if they mean the same process of the same boot.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command may hold spaces and parentheses itself; what follows its last parenthesis does not.
    fields = stat.rpartition(")")[2].split()
    if fields[STATE] in DEAD_STATES:
        return None
    return ProcessRecord(pid=pid, start_ticks=int(fields[START_TICKS]), boot_id=BOOT_ID.read_text().strip())


def is_alive(record: ProcessRecord) -> bool:
    """Whether the very process of this record still lives."""
    return identify(record.pid) == record


def killed_for_memory() -> int:
    """How many processes Linux has ended since boot because memory ran out, the machine's or a control group's
    (`oom_kill` in proc_vmstat(5)); 0 where it doesn't tell.
    """
    try:
        counts = dict(line.split() for line in VMSTAT.read_text().splitlines())
    except OSError:
        return 0
    return int(counts.get("oom_kill", 0))
