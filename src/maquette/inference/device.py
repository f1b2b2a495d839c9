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
