"""Is the trainer's result what its manifest says? Only then may a task succeed."""

import hashlib

from maquette.core.rundir import FileRecord, Manifest
from maquette.core.weights import BrokenWeights, check_lora_keys, header_end, parse_header
from maquette.storage.base import ObjectMissing, Storage


class Unverified(Exception):
    """The stored objects are not what the manifest says; the words name the object and the difference."""


async def verify_result(storage: Storage, prefix: str, manifest: Manifest) -> None:
    """Read the result's objects back and compare: size, SHA-256, and for the weights a whole LoRA's keys.

    Raises:
        Unverified: something differs.
    """
    for record in manifest.files:
        if record != manifest.weights:
            await _verify_file(storage, prefix, record)
    head = await _verify_file(storage, prefix, manifest.weights)
    try:
        header = parse_header(head)
        check_lora_keys(header.tensors)
    except BrokenWeights as error:
        raise Unverified(f"{manifest.weights.path}: {error}") from None
    if header.size != manifest.weights.size:
        raise Unverified(f"{manifest.weights.path}: its header speaks of {header.size} bytes")


async def _verify_file(storage: Storage, prefix: str, record: FileRecord) -> bytes:
    """Check one object against its record; answer its first bytes, enough for a safetensors header."""
    digest = hashlib.sha256()
    size = 0
    head = bytearray()
    try:
        async for chunk in storage.stream(f"{prefix}/{record.path}"):
            digest.update(chunk)
            size += len(chunk)
            if len(head) < _head_wanted(head):
                head += chunk
    except ObjectMissing:
        raise Unverified(f"{record.path}: no such object") from None
    if (size, digest.hexdigest()) != (record.size, record.sha256):
        raise Unverified(f"{record.path}: {size} bytes of SHA-256 {digest.hexdigest()}, not as the manifest says")
    return bytes(head)


def _head_wanted(head: bytearray) -> int:
    try:
        return header_end(bytes(head[:8]))
    except BrokenWeights:
        return 8
