"""In which numbers a base works, and how: whoever trains asks here and whoever draws, so that they agree."""

import torch

MULTIPLIES_BFLOAT16 = (8, 0)
"""Compute capability from which GPUs have circuits for it (NVIDIA's since Ampere, 2020); older ones emulate it, slower
than they are in float32. They have circuits for float16, whose small gradients vanish unless losses are scaled."""

NOWHERE = torch.device("meta")
"""The device of a base that is only looked at, in host memory: it works on none."""


def weight_dtype(device: torch.device) -> torch.dtype:
    """What frozen weights lie in: bfloat16 where a device multiplies it many times faster, or there is none; else
    float32.

    On CPUs bfloat16 measured slower than float32 as soon as convolutions carry a LoRA. Autoencoders stay in float32
    everywhere: they run once a picture, and show the rounding.
    """
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= MULTIPLIES_BFLOAT16
    return torch.bfloat16 if fast or device == NOWHERE else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which products are taken in `weight_dtype`'s numbers, and sums that must not round in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=weight_dtype(device) is torch.bfloat16)


def work_deterministically(device: torch.device) -> None:
    """Equal runs on the CPU give equal bytes; elsewhere it is as near as the device's kernels allow."""
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # It also fills memory before it is first written, for programs that read it before.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue] # Is made when it is imported.
    # Of the kernels for attention these alone sum gradients in an order of their own. (And FLUX.1's backward pass ended
    # in them with an illegal access, with torch 2.11 on an H200.)
    torch.backends.cuda.enable_cudnn_sdp(False)
