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


def use_device(device: torch.device) -> None:
    """Have torch work on a device, deterministically: equal runs on the CPU give equal bytes. Elsewhere torch is asked
    for the same, but some kernels have no such form.
    """
    if device.type == "cuda" and device.index is not None:  # pyright: ignore[reportUnnecessaryComparison] # Is None where none is named.
        # What names no device, as a CUDA graph's stream, is of the current one, and so is "cuda" without a number.
        torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # It also fills memory before it is first written, for programs that read it before.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue] # Is made when it is imported.
    # FLUX.1's backward pass ended in these kernels for attention with an illegal access (torch 2.11, H200), and they
    # can't work deterministically.
    torch.backends.cuda.enable_cudnn_sdp(False)
