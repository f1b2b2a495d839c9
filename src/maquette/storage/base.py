"""The storage port: objects under string keys."""

from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct


class ObjectInfo(Struct, frozen=True):
    """A stored object: its size in bytes, and when it was stored, in Unix seconds by the store's clock."""

    key: str
    size: int
    stored_at: float


class UnusableStorage(ValueError):
    """The URL names no storage known here; the message says what to write."""


class ObjectMissing(Exception):
    """No object has this key."""


class StorageFailed(OSError):
    """The store did not carry out a call: it is away, full, or refuses us. Trying again later may help."""


class Storage(Protocol):
    """Objects under keys such as `uploads/<tenant>/<asset>`. Implementations pass `tests/contract/test_storages.py`.

    An object appears whole or not at all: when writing breaks off, no object is left under the key. Every call may
    raise `StorageFailed`.
    What this port leaves out on purpose: signing (the server signs its own URLs), attributes, conditional updates.
    """

    async def put(self, key: str, data: bytes) -> None:
        """Store small bytes, replacing what was there."""
        ...

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Store a stream without holding it in memory; answer its size. An exception in `chunks` leaves no object."""
        ...

    async def put_file(self, key: str, path: Path) -> None:
        """Store a file's bytes."""
        ...

    async def get(self, key: str) -> bytes:
        """All bytes of a small object.

        Raises:
            ObjectMissing: no such key.
        """
        ...

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """An object's bytes in chunks.

        Raises:
            ObjectMissing: no such key (on the first chunk).
        """
        ...

    async def get_file(self, key: str, path: Path) -> None:
        """Write an object to a local file that appears whole.

        Raises:
            ObjectMissing: no such key.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """An object's size, and when it was stored.

        Raises:
            ObjectMissing: no such key.
        """
        ...

    async def copy(self, source: str, target: str) -> None:
        """Copy an object within the store, replacing the target.

        Raises:
            ObjectMissing: no such source.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; removing a missing one is no error."""
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix` and a slash, in no particular order."""
        ...
