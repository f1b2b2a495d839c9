"""What a safetensors file says of itself, read without any tensor library.

The format: eight bytes with the header's length, little-endian; the header, a JSON object that gives each tensor's
dtype, shape and place; the tensors' bytes (https://github.com/huggingface/safetensors#format).
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

MAX_HEADER = 100_000_000
"""The format's own limit, in bytes."""
LENGTH_BYTES = 8
METADATA = "__metadata__"


class LoraLayout(StrEnum):
    """How a LoRA file names and scales its matrices."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"
    """As kohya's trainers do; ComfyUI and the web interfaces read it."""


class TensorInfo(Struct, frozen=True):
    """One tensor: dtype by the format's name (`F32`), shape, and first and last byte counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class WeightsHeader(Struct, frozen=True):
    """The header of a safetensors file; `size` is what the whole file must have, in bytes."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    size: int


class BrokenWeights(Exception):
    """The file is no whole safetensors file, or not of the kind asked for; the message says what is wrong with it."""


def header_end(start: bytes) -> int:
    """Where a file's header ends, counted from the file's beginning; `start` is its first eight bytes or more.

    Raises:
        BrokenWeights: no safetensors file begins so.
    """
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) < LENGTH_BYTES or length > MAX_HEADER:
        raise BrokenWeights("no safetensors header")
    return LENGTH_BYTES + length


def parse_header(head: bytes) -> WeightsHeader:
    """Parse a file's first bytes, up to `header_end` or more.

    Raises:
        BrokenWeights: they are no whole header, or its tensors leave gaps or overlap.
    """
    end = header_end(head)
    if len(head) < end:
        raise BrokenWeights("cut off in its header")
    try:
        entries = msgspec.json.decode(head[LENGTH_BYTES:end], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(entries.pop(METADATA, msgspec.Raw(b"{}")), type=dict[str, str])
        tensors = {name: msgspec.json.decode(entry, type=TensorInfo) for name, entry in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenWeights(f"a header that can't be read: {error}") from error
    position = 0
    for begin, stop in sorted(info.data_offsets for info in tensors.values()):
        if begin != position:
            raise BrokenWeights("tensors that leave gaps or overlap")
        position = stop
    return WeightsHeader(tensors, metadata, end + position)


def read_header(path: Path) -> WeightsHeader:
    """Read a file's header, and check that the file holds exactly the bytes it speaks of.

    Raises:
        BrokenWeights: it does not, or is no safetensors file at all.
        FileNotFoundError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES)
            header = parse_header(start + file.read(header_end(start) - LENGTH_BYTES))
    except BrokenWeights as error:
        raise BrokenWeights(f"{path}: {error}") from error
    size = path.stat().st_size
    if size != header.size:
        raise BrokenWeights(f"{path}: holds {size} bytes, its header speaks of {header.size}")
    return header


def check_lora_keys(keys: Iterable[str]) -> None:
    """Assert that keys are those of a LoRA: matrices in pairs, A (down) and B (up), and nothing else but alphas.

    Raises:
        BrokenWeights: there is no pair, a half pair, or a foreign key.
    """
    names = {name for name in keys if not name.endswith(".alpha")}
    downs = {name for name in names if ".lora_A." in name}
    ups = {name.replace(".lora_A.", ".lora_B.") for name in downs}
    if not downs or names != downs | ups:
        raise BrokenWeights(f"no whole LoRA: {len(names)} matrices, of them {len(downs)} A and {len(names & ups)} B")
