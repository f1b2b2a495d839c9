"""LoRA files on a node's disk: fetched from storage when a job needs them, kept for the next, bounded in bytes."""

import asyncio
import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from maquette.core.drawing import Refusal
from maquette.core.files import PRIVATE, file_sha256
from maquette.serving.base import JobRefused, StoredLora
from maquette.storage.base import Storage, StorageFailed

SUFFIX = ".safetensors"
SHA256 = re.compile(r"[0-9a-f]{64}")


class LoraCache:
    """LoRA files by their content's hash, `<root>/<sha256>.safetensors`; a file has its name only when it is whole.

    The least recently used files that nobody holds make room for new ones. A job whose files are there never waits for
    another; those that need room get it one after the other. What is on the disk is more than `limit` only where one
    job alone needs more.
    """

    def __init__(self, root: Path, storage: Storage, limit: int) -> None:
        """Take the directory, this object's alone; `limit` is in bytes."""
        self._root = root
        self._storage = storage
        self._limit = limit
        self._entries: dict[str, _Entry] = {}
        """Least recently used first."""
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    def open(self) -> None:
        """Make the directory, drop what a dead process left half done, and take over what is whole. Blocks.

        Raises:
            OSError: the directory can't be used.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: list[tuple[float, _Entry]] = []
        for path in self._root.iterdir():
            if path.suffix == SUFFIX and SHA256.fullmatch(path.stem):
                status = path.stat()
                found.append((status.st_mtime, _Entry(path, status.st_size, whole=True)))
            else:
                path.unlink()
        self._entries = {entry.path.stem: entry for _, entry in sorted(found, key=lambda each: each[0])}
        _unlink(entry.path for entry in self._evicted(keep=(), need=0))

    def hold(self, loras: Sequence[StoredLora]) -> "Held":
        """What will hold the files of these LoRAs; they are not here before its `fetch`."""
        return Held(self, loras)

    def path(self, sha256: str) -> Path:
        """Where the file of this content is, or will be.

        Raises:
            ValueError: this is no hex SHA-256.
        """
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"not a SHA-256: {sha256[:80]!r}")
        return self._root / f"{sha256}{SUFFIX}"

    async def pin(self, loras: Sequence[StoredLora]) -> "list[_Entry]":
        """Keep a place for each of these (different) LoRAs, waiting for room where one is not there.

        Answers the files that made room; they are out of sight already and left to the caller to delete. Who is
        cancelled here has no places.
        """
        for lora in loras:
            await self._examine(lora.sha256)
        if self._all_there(loras):
            self._pin(loras, {})
            return []
        sizes = {lora.sha256: await self._size(lora) for lora in loras}
        async with self._turn:
            while not self._has_room(sizes):
                self._freed.clear()
                await self._freed.wait()
            missing = sum(size for sha256, size in sizes.items() if sha256 not in self._entries)
            evicted = self._evicted(keep=sizes, need=missing)
            self._pin(loras, sizes)
        return evicted

    async def bring(self, lora: StoredLora) -> None:
        """Fetch a LoRA that has a place, unless it is there or comes to be there while another job fetches it.

        Raises:
            ObjectMissing, StorageFailed: see `Pool.draw`.
            JobRefused: the object is not the recorded one.
        """
        entry = self._entries[lora.sha256]
        async with entry.fetching:
            if not entry.whole:
                await self._download(lora, entry)

    def unpin(self, loras: Sequence[StoredLora]) -> None:
        """Give up the places; the files stay until their room is needed."""
        for lora in loras:
            entry = self._entries.pop(lora.sha256)
            entry.users -= 1
            if entry.users or entry.whole:
                self._entries[lora.sha256] = entry
        self._freed.set()

    def _all_there(self, loras: Sequence[StoredLora]) -> bool:
        return all(lora.sha256 in self._entries and self._entries[lora.sha256].whole for lora in loras)

    def _pin(self, loras: Sequence[StoredLora], sizes: Mapping[str, int]) -> None:
        for lora in loras:
            entry = self._entries.get(lora.sha256)
            if entry is None:
                entry = self._entries[lora.sha256] = _Entry(self.path(lora.sha256), sizes[lora.sha256], whole=False)
            elif not entry.whole:
                # Another job fetches it from a key of its own, which may hold something else.
                entry.size = max(entry.size, sizes[lora.sha256])
            entry.users += 1

    async def _examine(self, sha256: str) -> None:
        """Forget a file that is gone, or that an earlier process left and that is not what its name says."""
        entry = self._entries.get(sha256)
        if entry is None or not entry.whole:
            return
        good = await asyncio.to_thread(entry.is_good)
        if good:
            entry.trusted = True
        elif self._entries.get(sha256) is entry:
            entry.whole = False
            if not entry.users:
                del self._entries[sha256]

    async def _size(self, lora: StoredLora) -> int:
        """Bytes of a LoRA: those of its file here, else those of its object."""
        entry = self._entries.get(lora.sha256)
        return entry.size if entry and entry.whole else (await self._storage.head(lora.key)).size

    def _has_room(self, sizes: Mapping[str, int]) -> bool:
        held = sum(entry.size for sha256, entry in self._entries.items() if entry.users and sha256 not in sizes)
        return not held or held + sum(sizes.values()) <= self._limit

    def _evicted(self, *, keep: Iterable[str], need: int) -> "list[_Entry]":
        """Make room for `need` bytes: forget files that nobody holds, but none of `keep`, and answer where they lie."""
        total = sum(entry.size for entry in self._entries.values())
        evicted: list[_Entry] = []
        for sha256 in [sha256 for sha256, entry in self._entries.items() if not entry.users and sha256 not in keep]:
            if total + need <= self._limit:
                break
            entry = self._entries.pop(sha256)
            total -= entry.size
            entry.hide()
            evicted.append(entry)
        return evicted

    async def _download(self, lora: StoredLora, entry: "_Entry") -> None:
        incoming = self._root / f".{uuid.uuid4().hex}"
        try:
            with _create(incoming) as file:
                digest, size = hashlib.sha256(), 0
                async for chunk in self._storage.stream(lora.key):
                    size += len(chunk)
                    if size > entry.size:
                        break
                    await asyncio.to_thread(_write, file, digest, chunk)
                await asyncio.to_thread(_sync, file)
            if size > entry.size or digest.hexdigest() != lora.sha256:
                raise JobRefused(Refusal.BROKEN_LORA, f"the object {lora.key} is not the LoRA that was recorded")
            incoming.rename(entry.path)
        except StorageFailed:
            raise
        except OSError as error:
            raise StorageFailed(f"{lora.key} could not be brought to this node: {error}") from error
        finally:
            incoming.unlink(missing_ok=True)
        entry.size, entry.whole, entry.trusted = size, True, True


class Held:
    """The LoRA files of one job, safe from eviction from `fetch` to `release`.

    Attributes:
        paths: of the files, in the order of the LoRAs.
    """

    def __init__(self, cache: LoraCache, loras: Sequence[StoredLora]) -> None:
        self._cache = cache
        self._loras = tuple({lora.sha256: lora for lora in loras}.values())
        self._pinned = False
        self.paths = tuple(str(cache.path(lora.sha256)) for lora in loras)

    async def fetch(self) -> None:
        """Bring the files here; where it fails or is cancelled, `release` is still due.

        Raises:
            ObjectMissing, StorageFailed, JobRefused: see `Pool.draw`.
        """
        evicted = await self._cache.pin(self._loras)
        self._pinned = True
        # Shielded: what nobody would delete any more would still fill the disk.
        await asyncio.shield(asyncio.to_thread(_unlink, [entry.path for entry in evicted]))
        for lora in self._loras:
            await self._cache.bring(lora)

    def release(self) -> None:
        """Let go of the files. Harmless the second time, and before `fetch`."""
        if self._pinned:
            self._pinned = False
            self._cache.unpin(self._loras)


class _Entry:
    """A file of the cache, there or to come.

    Attributes:
        path: where it is.
        size: bytes it has or will have.
        whole: whether it is there.
        trusted: whether this process has seen its hash.
        users: how many jobs hold it.
        fetching: held by the job that fetches it.
    """

    def __init__(self, path: Path, size: int, *, whole: bool) -> None:
        self.path = path
        self.size = size
        self.whole = whole
        self.trusted = False
        self.users = 0
        self.fetching = asyncio.Lock()

    def is_good(self) -> bool:
        """Whether the file is there and what its name says. Blocks."""
        try:
            if self.trusted:
                return self.path.stat().st_size == self.size
            return file_sha256(self.path) == self.path.stem
        except OSError:
            return False

    def hide(self) -> None:
        """Take the file's name away, so that it can be deleted at leisure."""
        grave = self.path.with_name(f".{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            self.path.rename(grave)
        self.path = grave


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb")


def _write(file: BinaryIO, digest: "hashlib._Hash", chunk: bytes) -> None:
    digest.update(chunk)
    file.write(chunk)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
