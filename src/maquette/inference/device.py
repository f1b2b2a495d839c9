"""The device that draws."""

import torch

from maquette.families.environment import UnknownDevice


def usable_device(name: str) -> torch.device:
    """The device of a torch device string, after a first touch.

    Raises:
        UnknownDevice: see there.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UnknownDevice(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def device_kind(device: torch.device) -> str:
    """What kind of device it is: on another kind pictures come out a little different."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
