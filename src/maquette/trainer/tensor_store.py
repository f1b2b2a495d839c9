"""Tensors that are worth keeping from run to run, in a folder that the trainers of one tenant share.

Each entry is one safetensors file, `<owner>/<hash>.safetensors`; the owner is a picture's SHA-256, so that all that was
made of a picture can be found and erased, or names what belongs to no picture. Files appear whole and never change, so
any number of trainers may read, write and be killed at any line. An entry may be gone whenever it is asked for.

A file proves itself: its metadata hold a label, which says what was noted and what hash the tensors have, and the hash
of the label, so that notes can be believed without reading tensors. What older versions wrote has none. Whatever does
not prove itself counts as missing, and so is made anew and written over.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from msgspec import Struct
from safetensors import SafetensorError

from maquette.core.ids import sha256_hex
from maquette.core.weights import BrokenWeights, WeightsHeader, parse_header, read_header
from maquette.trainer.tensors import write_tensors

SUFFIX = ".safetensors"
ABANDONED = 3600.0
"""Seconds after which a file that is still half written has no writer any more."""
LABEL = "label"
LABEL_SHA256 = "label_sha256"


@dataclass(frozen=True)
class Entry:
    """As what tensors are kept.

    Attributes:
        owner: whose they are.
        name: which of the owner's.
        notes: beside them; an entry with other notes is not this one.
    """

    owner: str
    name: str
    notes: Mapping[str, str] = field(default_factory=dict[str, str])


class Label(Struct, frozen=True):
    """What a file says of its content; `tensors_sha256` as of `_sha256_of`."""

    notes: dict[str, str]
    tensors_sha256: str


class TensorStore:
    """Keeps tensors by owner and name; the least recently used go when there are too many bytes."""

    def __init__(self, root: Path, max_bytes: int, context: str) -> None:
        """Open a folder, which need not exist yet.

        Args:
            root: the folder.
            max_bytes: of all its files together; 0 keeps nothing.
            context: what all entries depend on besides their names, such as the base; others see none of them.
        """
        self._root = root
        self._max_bytes = max_bytes
        self._context = context
        self._bytes: int | None = None

    def notes(self, owner: str, name: str) -> Mapping[str, str] | None:
        """What was noted beside an entry's tensors, without reading them; None where there is no entry."""
        try:
            return _label(read_header(self._path(owner, name))).notes
        except (OSError, BrokenWeights):
            return None

    def read(self, entry: Entry) -> dict[str, torch.Tensor] | None:
        """An entry's tensors on the CPU, or None where there is no entry; what is damaged counts as none."""
        path = self._path(entry.owner, entry.name)
        try:
            tensors = _proven(path.read_bytes(), entry.notes)
            os.utime(path)
        except (OSError, BrokenWeights):
            return None
        return tensors

    def write(self, entry: Entry, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep an entry, unless a number in it is not finite: that is to be told of what made it, not of what was kept.

        Where the disk refuses, nothing is kept, and the run goes on.
        """
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self._max_bytes or not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            return
        path = self._path(entry.owner, entry.name)
        label = msgspec.json.encode(Label(dict(entry.notes), _sha256_of(tensors))).decode()
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, tensors, {LABEL: label, LABEL_SHA256: sha256_hex(label.encode())})
            self._make_room(path)

    def _path(self, owner: str, name: str) -> Path:
        return self._root / owner / f"{sha256_hex(msgspec.json.encode((self._context, name)))}{SUFFIX}"

    def _make_room(self, written: Path) -> None:
        """Count what was written, and look at the whole folder only when it may be too much: others write there too."""
        if self._bytes is not None:
            self._bytes += written.stat().st_size
        if self._bytes is None or self._bytes > self._max_bytes:
            self._bytes = self._trim()

    def _trim(self) -> int:
        """Delete the least recently used entries beyond the limit, and what was left half written; answer the rest."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
            with suppress(OSError):
                path.parent.rmdir()
        return total

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """When each was last used, its bytes, and where it is; others may delete it meanwhile."""
        for path in self._root.glob("*/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                if path.suffix == SUFFIX and not path.name.startswith("."):
                    yield found.st_mtime_ns, found.st_size, path
                elif time.time() - found.st_mtime > ABANDONED:
                    path.unlink()


def _label(header: WeightsHeader) -> Label:
    """A file's label.

    Raises:
        BrokenWeights: it has none, or not the one that it was written with.
    """
    label = header.metadata.get(LABEL, "").encode()
    if sha256_hex(label) != header.metadata.get(LABEL_SHA256):
        raise BrokenWeights("no label that its hash fits")
    try:
        return msgspec.json.decode(label, type=Label)
    except msgspec.DecodeError as error:
        raise BrokenWeights(f"a label that can't be read: {error}") from error


def _proven(data: bytes, notes: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of a file that was written with these notes.

    Raises:
        BrokenWeights: they are not those that it was written with, or the notes are not.
    """
    label = _label(parse_header(data))
    try:
        tensors = safetensors.torch.load(data)
    # The latter of types that the format has and torch has not.
    except (SafetensorError, KeyError) as error:
        raise BrokenWeights(f"tensors that can't be read: {error}") from error
    if label != Label(dict(notes), _sha256_of(tensors)):
        raise BrokenWeights("tensors or notes that its label does not speak of")
    return tensors


def _sha256_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 of all that tensors are: names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(msgspec.json.encode((name, str(tensor.dtype), tuple(tensor.shape))))
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
