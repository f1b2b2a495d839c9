"""A model with YuNet's inputs and outputs that takes red squares of 32 pixels for faces; ONNX, encoded by hand.

YuNet says of each cell of 8, 16 and 32 pixels how sure it is (`cls`, `obj`), where the face is from there (`bbox`:
centre and logarithm of the size, in cells) and where its landmarks are (`kps`). Here one convolution each says so, and
only cells of 32 pixels say anything.
"""

import math
from collections.abc import Sequence

import numpy as np

RED = 2
"""OpenCV's pictures are blue, green, red."""
CELL = 32
FACE = 64
"""Side of the face that a red cell is taken for."""


def red_squares() -> bytes:
    """The model's file."""
    graph: list[bytes] = []
    for stride in (8, 16, CELL):
        sure = np.zeros((1, 3, stride, stride), np.float32)
        if stride == CELL:
            sure[:, RED] = 1 / (255 * stride * stride)
        size = math.log(FACE / stride)
        for name, weights, bias in (
            ("cls", sure, [0.0]),
            ("obj", sure, [0.0]),
            ("bbox", np.zeros((4, 3, stride, stride), np.float32), [0.5, 0.5, size, size]),
            ("kps", np.zeros((10, 3, stride, stride), np.float32), [0.0] * 10),
        ):
            graph += _output(f"{name}_{stride}", weights, np.array(bias, np.float32), stride)
    graph.append(_message(11, _value("input", [1, 3, 640, 640])))
    opset = _message(8, _number(2, 11))
    return _number(1, 6) + opset + _message(7, b"".join([_text(2, "red squares"), *graph]))


def _output(name: str, weights: np.ndarray, bias: np.ndarray, stride: int) -> list[bytes]:
    """A convolution whose answer has its channels last, as one output of the graph."""
    convolution = _node(
        "Conv",
        ["input", f"{name}.weights", f"{name}.bias"],
        f"{name}.cells",
        {"strides": [stride] * 2, "kernel_shape": [stride] * 2},
    )
    return [
        _message(1, convolution),
        _message(1, _node("Transpose", [f"{name}.cells"], name, {"perm": [0, 2, 3, 1]})),
        _message(5, _tensor(f"{name}.weights", weights)),
        _message(5, _tensor(f"{name}.bias", bias)),
        _message(12, _value(name, [1, 640 // stride, 640 // stride, len(bias)])),
    ]


def _node(kind: str, inputs: Sequence[str], output: str, attributes: dict[str, list[int]]) -> bytes:
    listed = b"".join(
        _message(5, _text(1, name) + b"".join(_number(8, value) for value in values) + _number(20, 7))
        for name, values in attributes.items()
    )
    return b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(3, output) + _text(4, kind) + listed


def _tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_number(1, size) for size in values.shape)
    return dims + _number(2, 1) + _text(8, name) + _message(9, values.tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_message(1, _number(1, size)) for size in shape)
    return _text(1, name) + _message(2, _message(1, _number(1, 1) + _message(2, dims)))


# Protocol buffers: a field is its number and kind in one number, then a number, or a length and as many bytes.


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
