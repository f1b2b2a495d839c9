"""A base's folder in the making: filled from a hub or from other folders, and put in its place when it is whole.

It lies beside its place, under the same name with `.part` behind it. What has been put into it stays when the making
breaks off, so that the next one goes on from there.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from maquette.core.basefolder import BrokenBase
from maquette.core.files import file_sha256, fsync_directory

PART = ".part"
OLD = ".old"


@contextmanager
def making(place: Path) -> Generator[Path]:
    """The folder in which what shall lie at `place` is made, for one at a time.

    What lay at `place` is put back first, where a command was killed between taking it away and giving another there.

    Raises:
        BrokenBase: another process makes it.
    """
    part = place.with_name(place.name + PART)
    while (lock := _locked(part)) is None:
        pass
    try:
        old = _old(place)
        if old.exists() and not place.exists():
            old.rename(place)
        yield part
    finally:
        os.close(lock)


def tidy(part: Path, names: Collection[str]) -> None:
    """Erase what an earlier try has left in a folder beside the files of these names."""
    wanted = {part / name for name in names}
    for path in sorted(part.rglob("*"), reverse=True):
        if not path.is_dir():
            if path not in wanted:
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def put_in_place(part: Path, place: Path) -> None:
    """Give a made folder its place, and throw away what lay there; whoever has its files open keeps them."""
    old = _old(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    part.rename(place)
    fsync_directory(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def bring(source: Path, path: Path) -> None:
    """Put a file of this machine at `path`: as another name for the same bytes, or copied where that can't be.

    What is the same already stays: an earlier try may have copied it.

    Raises:
        BrokenBase: the copy is not what the source is, or there is no space for it.
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    if _same(source, path):
        return
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(source)
    except OSError:
        # Another file system, or one without hard links.
        _copy(source, path)


def no_space(folder: Path, lacking: int, what: str) -> str:
    """Says that what shall lie in a folder lacks so many bytes, and the fix."""
    return (
        f"no space for {what}: {lacking:,} bytes are needed in {folder}, {free_space(folder):,} are free; make room,"
        " or give another --data-dir, and run the same command again"
    )


def free_space(folder: Path) -> int:
    """Bytes that can be written to a folder's file system."""
    return shutil.disk_usage(folder).free


def _same(source: Path, path: Path) -> bool:
    """Whether two files have the same bytes; reads both only where they are of one size."""
    if not path.is_file() or path.stat().st_size != source.stat().st_size:
        return False
    return path.samefile(source) or file_sha256(path) == file_sha256(source)


def _copy(source: Path, path: Path) -> None:
    size = source.stat().st_size
    if size > free_space(path.parent):
        raise BrokenBase(no_space(path.parent, size, str(source)))
    try:
        shutil.copyfile(source, path)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise
        raise BrokenBase(no_space(path.parent, size, str(source))) from error
    if not _same(source, path):
        path.unlink()
        raise BrokenBase(f"{path} is not what {source} is, of which it is a copy; the disk may be failing")


def _locked(part: Path) -> int | None:
    """Lock the folder that lies there; None where another command has just given it its place."""
    part.mkdir(parents=True, exist_ok=True)
    with ExitStack() as unless_kept:
        try:
            lock = os.open(part, os.O_RDONLY)
            unless_kept.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock), part.stat()):
                return None
        except BlockingIOError:
            raise BrokenBase(f"{part} is being filled by another command; wait until that has ended") from None
        except FileNotFoundError:
            return None
        unless_kept.pop_all()
        return lock


def _old(place: Path) -> Path:
    """Where what lay there is while another takes its place."""
    return place.with_name(place.name + OLD)
