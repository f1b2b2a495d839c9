"""Telling by an error that memory ran out: libraries have no one way to say so."""

import torch

SAID = (
    # The CPU allocator's error is a RuntimeError as any other.
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that memory ran out, of a device or of the host, or one does that it was raised after."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in SAID):
            return True
        error = error.__cause__ or error.__context__
    return False
