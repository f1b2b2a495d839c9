"""Files that appear whole or not at all."""

import hashlib
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20
PRIVATE = 0o600
FOR_THE_USER = 0o666
"""Permissions of what a person asked for, before the umask takes its part."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that a reader of `path` sees the old file or the new one, also after a power cut.

    Temporary file in the same directory, fsync, rename, fsync of the directory.
    """
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path, mode: int = PRIVATE) -> Generator[BinaryIO]:
    """A file to write that takes the name `path` only when the block ends well.

    `mode` are its permissions as `open(2)` takes them, so that the user's umask counts.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(path)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
