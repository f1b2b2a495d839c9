"""Tensors that are worth keeping from run to run, in a folder that the trainers of one tenant share.

Each entry is one safetensors file, `<owner>/<hash>.safetensors`; the owner is a picture's SHA-256, so that all that was
made of a picture can be found and erased, or names what belongs to no picture. Files appear whole and never change, so
any number of trainers may read, write and be killed at any line. An entry may be gone whenever it is asked for.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError

from maquette.core.ids import sha256_hex
from maquette.core.weights import BrokenWeights, read_header
from maquette.trainer.tensors import write_tensors

SUFFIX = ".safetensors"
ABANDONED = 3600.0
"""Seconds after which a file that is still half written has no writer any more."""


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
            return read_header(self._path(owner, name)).metadata
        except (OSError, BrokenWeights):
            return None

    def read(self, owner: str, name: str) -> dict[str, torch.Tensor] | None:
        """An entry's tensors on the CPU, or None where there is no entry; what is damaged counts as none."""
        path = self._path(owner, name)
        try:
            tensors = safetensors.torch.load(path.read_bytes())
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        return tensors

    def write(
        self, owner: str, name: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str] | None = None
    ) -> None:
        """Keep an entry, with notes beside it. Where the disk refuses, nothing is kept, and the run goes on."""
        path = self._path(owner, name)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self._max_bytes:
            return
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, tensors, dict(notes or {}))
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
