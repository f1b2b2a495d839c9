import json
import struct

import pytest

from maquette.core.weights import BrokenWeights, check_lora_keys, header_end, parse_header

A = "unet.block.to_q.lora_A.weight"
B = "unet.block.to_q.lora_B.weight"


def weights_file(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [begin, end]}


def test_a_header_tells_tensors_metadata_and_the_whole_files_size() -> None:
    data = weights_file({"__metadata__": {"seed": "7"}, A: tensor(0, 4), B: tensor(4, 8)}, bytes(8))
    header = parse_header(data)
    assert set(header.tensors) == {A, B}
    assert header.tensors[B].data_offsets == (4, 8)
    assert header.metadata == {"seed": "7"}
    assert header.size == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n and more",
        weights_file({A: tensor(0, 4)})[:-1],
        weights_file([1, 2]),
        weights_file({A: tensor(4, 8)}),
        weights_file({A: tensor(0, 8), B: tensor(4, 8)}),
        weights_file({A: {"dtype": "F32"}}),
        weights_file({A: tensor(0, 4)}).replace(b"unet", b"une\xff"),
    ],
    ids=["empty", "a picture", "cut off", "a list", "a gap", "an overlap", "no offsets", "no UTF-8"],
)
def test_what_is_no_safetensors_header_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenWeights):
        parse_header(data)


def test_the_header_end_counts_its_own_eight_bytes() -> None:
    data = weights_file({A: tensor(0, 4)})
    assert header_end(data[:8]) == len(data)


def test_a_lora_has_matrices_in_pairs() -> None:
    check_lora_keys([A, B])
    check_lora_keys([A, B, "unet.block.to_q.alpha"])


@pytest.mark.parametrize("keys", [[], [A], [B], [A, B, "unet.block.to_q.weight"], [A, B, A.replace("to_q", "to_k")]])
def test_what_is_no_whole_lora_is_refused(keys: list[str]) -> None:
    with pytest.raises(BrokenWeights):
        check_lora_keys(keys)
