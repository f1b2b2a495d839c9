"""In which numbers a base works, by device: whoever trains asks here and whoever draws, so that they agree."""

import torch


def resting(device: torch.device) -> torch.dtype:
    """What frozen weights lie in: bfloat16 where a device multiplies it many times faster, else float32.

    On CPUs bfloat16 measured slower than float32 as soon as convolutions carry a LoRA. Autoencoders stay in float32
    everywhere: they run once a picture, and show the rounding.
    """
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def working(device: torch.device) -> torch.autocast:
    """A context in which products are taken in `resting`'s numbers, and sums that must not round in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
