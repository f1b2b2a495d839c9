"""Which devices this machine has, found out without torch."""

import re
from pathlib import Path

AUTO = "auto"
NVIDIA = re.compile(r"nvidia\d+")


def detect_devices(setting: str, dev: Path = Path("/dev")) -> tuple[str, ...]:
    """The devices that attempts may claim, as torch device strings.

    Args:
        setting: `auto` for every NVIDIA device of this machine, or the CPU where there is none; else a list such as
            `cuda:0,cuda:2`.
        dev: where device files are.
    """
    if setting != AUTO:
        return tuple(name.strip() for name in setting.split(",") if name.strip())
    # torch counts from 0 what it sees, whatever numbers the machine gives the device files.
    count = sum(NVIDIA.fullmatch(path.name) is not None for path in dev.iterdir())
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)
