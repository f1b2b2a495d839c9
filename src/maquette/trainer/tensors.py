"""Writing and reading tensors as safetensors whose bytes depend on nothing but what they hold."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from maquette.core.files import write_atomic
from maquette.core.weights import LENGTH_BYTES, METADATA

ALIGNMENT = 8


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, whole or not at all; equal content gives equal bytes."""
    # An empty map of metadata makes the library write a header that is no JSON: none is given then.
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, _with_sorted_header(safetensors.torch.save(on_cpu, metadata or None)))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, on the CPU."""
    return safetensors.torch.load_file(path)


def _with_sorted_header(data: bytes) -> bytes:
    """The library keeps metadata in a hash map, whose order differs from process to process; ours is sorted."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
    if METADATA in header:
        header[METADATA] = dict(sorted(header[METADATA].items()))
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format wants tensors aligned, and lets the header end in spaces.
    raw += b" " * (-len(raw) % ALIGNMENT)
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw + data[LENGTH_BYTES + length :]
