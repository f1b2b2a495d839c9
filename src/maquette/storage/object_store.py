"""Storage over obstore: a local directory, memory, S3, Google Cloud Storage or Azure behind one class."""

import asyncio
import os
import re
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from maquette.core.files import CHUNK, atomic_file, fsync_directory
from maquette.storage.base import ObjectInfo, ObjectMissing, Storage, StorageFailed, UnusableStorage

PART = 5 << 20
"""Bytes of one part of a long upload; S3 takes no smaller ones."""
PARTS_AT_ONCE = 2
"""Parts of one upload that may be under way: what bounds its memory."""
RETRIES = 4
RETRY_FOR = timedelta(seconds=30)
"""A store that stays away is reported in seconds; the callers' loops try again by themselves."""
MAX_KEY = 1024
KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]*")

STAGING = ".staging"
STAGING_KEPT = 86_400.0
"""Seconds after which a file left in the staging area must be a dead process's."""


class InvalidKey(ValueError):
    """The key is not one this storage takes; a mistake of the program, never of a user."""


def check_key(key: str) -> str:
    """Answer the key if it is made of harmless parts between single slashes.

    Parts begin with a letter, a digit or an underscore, so `..`, hidden names and leading slashes are out, and hold
    nothing that any store would encode.

    Raises:
        InvalidKey: otherwise.
    """
    if len(key) > MAX_KEY or not all(KEY_PART.fullmatch(part) for part in key.split("/")):
        raise InvalidKey(f"not a storage key: {key[:80]!r}")
    return key


class ObjectStorage(Storage):
    """Objects in an obstore store, whose puts are atomic and, on the cloud stores, durable when they return."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, key: str, data: bytes) -> None:
        """See `Storage.put`."""
        await self._write(check_key(key), data)

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """See `Storage.put_stream`. At most a few parts of 5 MiB are in memory."""
        counted = _Counted(chunks)
        await self._write(check_key(key), counted)
        return counted.size

    async def put_file(self, key: str, path: Path) -> None:
        """See `Storage.put_file`.

        Raises:
            FileNotFoundError: no such file.
        """
        check_key(key)
        await asyncio.to_thread(path.stat)
        await self._write(key, path)

    async def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        with translated(check_key(key)):
            result = await self._store.get_async(key)
            return bytes(await result.bytes_async())

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """See `Storage.stream`."""
        with translated(check_key(key)):
            result = await self._store.get_async(key)
            async for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    async def get_file(self, key: str, path: Path) -> None:
        """See `Storage.get_file`."""
        await asyncio.to_thread(self._download, check_key(key), path)

    async def head(self, key: str) -> ObjectInfo:
        """See `Storage.head`."""
        with translated(check_key(key)):
            meta = await self._store.head_async(key)
            return ObjectInfo(key=key, size=meta["size"], stored_at=meta["last_modified"].timestamp())

    async def copy(self, source: str, target: str) -> None:
        """See `Storage.copy`."""
        check_key(target)
        with translated(check_key(source)):
            await self._store.copy_async(source, target)

    async def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        try:
            with translated(check_key(key)):
                await self._store.delete_async(key)
        except ObjectMissing:
            return

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See `Storage.list`. The empty prefix lists everything."""
        within = f"{check_key(prefix)}/" if prefix else ""
        with translated(prefix):
            async for batch in self._store.list(prefix or None):
                for meta in batch:
                    key = meta["path"]
                    # The staging area of a local store lies in the same directory, out of every key's reach.
                    if key.startswith(within) and not key.startswith(f"{STAGING}/"):
                        stored_at = meta["last_modified"].timestamp()
                        yield ObjectInfo(key=key, size=meta["size"], stored_at=stored_at)

    async def _write(self, key: str, source: "bytes | Path | _Counted") -> None:
        with translated(None):
            await self._store.put_async(key, source, chunk_size=PART, max_concurrency=PARTS_AT_ONCE)

    def _download(self, key: str, path: Path) -> None:
        with translated(key):
            result = self._store.get(key)
        with translated(None), atomic_file(path) as file:
            for chunk in result.stream(min_chunk_size=CHUNK):
                file.write(chunk)


class LocalStorage(ObjectStorage):
    """Objects in a directory, durable when a call returns.

    obstore's local store writes beside the target and renames, so a reader meets a whole object or none; but it never
    calls fsync (object_store 0.14 has the switch, obstore 0.12 offers no way to it), so after a power cut a renamed
    file may be empty. Objects are therefore put under a staging key first, synced, then renamed to their own key, and
    the directories on the way are synced.

    A copy is one of bytes. obstore's is a hard link that it renames over the target, which does nothing where the two
    are links to one file already: copying twice would leave a link that no key reaches, and so no erasure.
    """

    def __init__(self, root: Path) -> None:
        """Open, making the directory where it does not exist, and drop what dead processes left half written."""
        super().__init__(LocalStore(root, mkdir=True))
        self._root = root.resolve()
        self._staging = self._root / STAGING
        self._staging.mkdir(exist_ok=True)
        for left in self._staging.iterdir():
            if left.stat().st_mtime < time.time() - STAGING_KEPT:
                left.unlink()

    async def copy(self, source: str, target: str) -> None:
        """See `Storage.copy`."""
        check_key(target)
        await self.head(source)
        await self._write(target, self._root / source)

    async def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        await super().delete(key)
        await asyncio.to_thread(self._sync_parents, key)

    async def _write(self, key: str, source: "bytes | Path | _Counted") -> None:
        staged = f"{STAGING}/{uuid.uuid4().hex}"
        try:
            await super()._write(staged, source)
            await asyncio.to_thread(_fsync, self._root / staged)
            with translated(None):
                await self._store.rename_async(staged, key)
        except BaseException:
            (self._root / staged).unlink(missing_ok=True)
            raise
        await asyncio.to_thread(self._sync_parents, key)

    def _sync_parents(self, key: str) -> None:
        for directory in (self._root / key).parents:
            if directory.exists():
                fsync_directory(directory)
            if directory == self._root:
                return


def open_storage(url: str) -> ObjectStorage:
    """Open the storage a URL names.

    Args:
        url: `file:///dir` or a plain path; `memory://` for a store that dies with the process; `s3://bucket/prefix`,
            `gs://bucket/prefix`, `az://container/prefix` with credentials and endpoint from the environment, by the
            names the vendors use (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, …).

    Raises:
        UnusableStorage: the URL names no storage known here.
        OSError: a local directory can't be made.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "" if url:
            return LocalStorage(Path(url))
        case "file" if not parts.netloc:
            return LocalStorage(Path(unquote(parts.path)))
        case "memory":
            return ObjectStorage(MemoryStore())
        case "s3" | "s3a" | "gs" | "az" | "abfs" | "abfss":
            return ObjectStorage(from_url(url, retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_FOR}))
        case _:
            raise UnusableStorage(
                f"storage URL {url!r}: give file:///dir, a path, memory://, s3://bucket/prefix, "
                "gs://bucket/prefix or az://container/prefix"
            )


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


class _Counted:
    """A stream that knows how many bytes went through it."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


@contextmanager
def translated(missing: str | None) -> Generator[None]:
    """Turn obstore's errors into the port's; `missing` names the object that a "not found" is about."""
    try:
        yield
    except FileNotFoundError as error:
        if missing is None:
            # Nothing was asked for: it is the bucket that is missing, or the directory was pulled from under us.
            raise StorageFailed(_first_line(error)) from error
        raise ObjectMissing(missing) from error
    except BaseError as error:
        raise StorageFailed(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """What obstore says, less the dump of its internals that follows."""
    return str(error).partition("\n")[0]
