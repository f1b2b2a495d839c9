"""Whether a tensor's numbers are finite, told from their bits: no tensor library is needed to look at a few vectors."""

from array import array
from math import prod
from pathlib import Path
from typing import Literal

from msgspec import Struct

from maquette.core.weights import TensorInfo, WeightsHeader


class FloatFormat(Struct, frozen=True):
    """A number's size as `array` calls it, and the bits of its exponent: all of them set is no finite number."""

    code: Literal["H", "I", "Q"]
    exponent: int


FORMATS = {
    "F16": FloatFormat("H", 0x7C00),
    "BF16": FloatFormat("H", 0x7F80),
    "F32": FloatFormat("I", 0x7F80_0000),
    "F64": FloatFormat("Q", 0x7FF0_0000_0000_0000),
}
"""Floating point formats by the name that safetensors files have for them."""


def is_finite(path: Path, header: WeightsHeader, tensor: TensorInfo) -> bool:
    """Whether every number of a tensor in one of `FORMATS` is finite; reads the whole tensor.

    Raises:
        ValueError: the tensor's bytes are not as many as its shape asks for.
    """
    form = FORMATS[tensor.dtype]
    begin, end = tensor.data_offsets
    numbers: array[int] = array(form.code)
    if end - begin != prod(tensor.shape) * numbers.itemsize:
        raise ValueError(f"{end - begin} bytes for a shape of {list(tensor.shape)}")
    with path.open("rb") as file:
        file.seek(header.size - max(info.data_offsets[1] for info in header.tensors.values()) + begin)
        numbers.frombytes(file.read(end - begin))
    return all(number & form.exponent != form.exponent for number in numbers)
