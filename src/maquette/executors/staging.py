"""Staging: what goes from storage into a run directory, and what comes out of it again.

Files are checked against their recorded size and hash on both ways. A set of files that has been staged out is closed
by the message that names them, put last: where it is, all of them are, and none of them needs to be put a second time.
"""

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from maquette.core.files import file_sha256
from maquette.core.rundir import (
    CHECKPOINT_MANIFEST,
    KEPT_CHECKPOINTS,
    CheckpointManifest,
    FileRecord,
    Manifest,
    RunDirectory,
)
from maquette.core.specs import Picture
from maquette.executors.base import CheckpointRef
from maquette.storage.base import ObjectMissing, Storage, StorageFailed

Names = TypeVar("Names", CheckpointManifest, Manifest)
"""A message that names files, and so closes a set of them."""

log = structlog.get_logger(__name__)

AT_ONCE = 4
"""Pictures under way at the same time."""
MANIFEST = "manifest.json"
PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]*")


class StagingFailed(OSError):
    """A file could not be brought to the node as it should be."""


async def stage_in_pictures(
    storage: Storage, run: RunDirectory, pictures: Sequence[Picture], keys: Sequence[str]
) -> None:
    """Bring each picture from its key to `images/<name>`; one that is there already and right stays.

    Raises:
        StagingFailed: a picture is missing in storage, or its bytes are not the sealed ones.
        OSError: the disk or the storage fails.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def bring(picture: Picture, key: str) -> None:
        async with slots:
            target = inside(run.images, picture.name)
            if not await asyncio.to_thread(_has_hash, target, picture.sha256):
                await _fetch(storage, key, target)
                if not await asyncio.to_thread(_has_hash, target, picture.sha256):
                    raise StagingFailed(f"picture {picture.name}: the object {key} is not the one that was sealed")

    try:
        async with asyncio.TaskGroup() as group:
            for picture, key in zip(pictures, keys, strict=True):
                group.create_task(bring(picture, key))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures


async def stage_in_newest_checkpoints(storage: Storage, run: RunDirectory, refs: Sequence[CheckpointRef]) -> None:
    """Bring the first checkpoints that are usable, of those given newest first; none where none is.

    More than one, since the trainer goes back to the one before where the newest does not prove to be what it claims.
    The same LoRA comes out of a run from an older checkpoint or from the start: only time is lost, which beats a task
    that can't go on. A store that refuses everything is another matter: it may be back in a minute, with all of it.

    Raises:
        StorageFailed: none is usable, and of one at least the store did not say that it is lost.
        OSError: the disk fails.
    """
    refusal: StorageFailed | None = None
    brought: set[int] = set()
    for ref in refs:
        if ref.step in brought:
            continue
        try:
            await stage_in_checkpoint(storage, run, ref)
        except (StagingFailed, StorageFailed) as error:
            log.warning("checkpoint unusable", run=str(run.root), checkpoint=ref.prefix, error=str(error))
            # What was brought of it is no checkpoint, and must not be kept in the place of one.
            await asyncio.to_thread(shutil.rmtree, run.checkpoint(ref.step), ignore_errors=True)
            refusal = error if isinstance(error, StorageFailed) else refusal
        else:
            brought.add(ref.step)
            if len(brought) == KEPT_CHECKPOINTS:
                break
    if brought:
        return
    if refusal:
        raise refusal
    if refs:
        log.warning("no checkpoint usable, starting afresh", run=str(run.root))


async def stage_in_checkpoint(storage: Storage, run: RunDirectory, ref: CheckpointRef) -> None:
    """Bring a checkpoint to where the trainer looks for it; its `checkpoint.json` comes last.

    Raises:
        StagingFailed: a file is missing in storage, or is not the recorded one.
        OSError: the disk or the storage fails.
    """
    directory = run.checkpoint(ref.step)
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    for record in ref.files:
        target = inside(directory, record.path)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        await _fetch(storage, f"{ref.prefix}/{record.path}", target)
    if not await asyncio.to_thread(verified, directory, ref.files):
        raise StagingFailed(f"checkpoint {ref.prefix}: its files are not the recorded ones")
    manifest = CheckpointManifest(step=ref.step, files=ref.files)
    await asyncio.to_thread(run.write, directory / CHECKPOINT_MANIFEST, manifest)


async def stage_out_checkpoint(
    storage: Storage, run: RunDirectory, step: int, output_prefix: str
) -> CheckpointRef | None:
    """Put a checkpoint's files to storage, but those that are there already: samples may have come to the others.

    Answers None where nothing is stored, and the trainer has dropped it for a newer one or its files are not whole.

    Raises:
        OSError: the storage fails.
    """
    directory = run.checkpoint(step)
    prefix = f"{output_prefix}/checkpoints/{directory.name}"
    closing = f"{prefix}/{CHECKPOINT_MANIFEST}"
    stored = await _staged(storage, closing, CheckpointManifest)
    here = await asyncio.to_thread(_read, run, directory / CHECKPOINT_MANIFEST, CheckpointManifest)
    if here is not None and here != stored:
        lacking = [record for record in here.files if stored is None or record not in stored.files]
        if await _put_all(storage, directory, lacking, prefix):
            await storage.put(closing, msgspec.json.encode(here))
            stored = here
    return CheckpointRef(step=step, prefix=prefix, files=stored.files) if stored else None


async def stage_out_result(storage: Storage, run: RunDirectory, output_prefix: str) -> Manifest | None:
    """Put the LoRA, the sample and the manifest of a finished run to storage, unless they are there already.

    Answers None where there is no manifest, or it speaks of files that are not as it says.

    Raises:
        OSError: the storage fails.
    """
    if not await asyncio.to_thread(run.manifest.exists):
        # Nothing is asked of the storage: where it is away, who has left nothing need not wait for it.
        return None
    closing = f"{output_prefix}/{MANIFEST}"
    manifest = await _staged(storage, closing, Manifest)
    if manifest is None:
        manifest = await asyncio.to_thread(_read, run, run.manifest, Manifest)
        if manifest is None:
            return None
        if not await _put_all(storage, run.root, manifest.files, output_prefix):
            return None
        await storage.put(closing, msgspec.json.encode(manifest))
    return manifest


def verified(directory: Path, records: Sequence[FileRecord]) -> bool:
    """Whether every record's file is there with its size and hash."""
    try:
        return all(_matches(inside(directory, record.path), record) for record in records)
    except (FileNotFoundError, StagingFailed):
        return False


def inside(directory: Path, relative: str) -> Path:
    """The path of a file that must lie inside a directory.

    Raises:
        StagingFailed: `relative` is not a plain relative path.
    """
    if not all(PATH_PART.fullmatch(part) for part in relative.split("/")):
        raise StagingFailed(f"not a path inside the run directory: {relative[:80]!r}")
    return directory / relative


def _matches(path: Path, record: FileRecord) -> bool:
    return path.stat().st_size == record.size and file_sha256(path) == record.sha256


def _has_hash(path: Path, sha256: str) -> bool:
    return path.exists() and file_sha256(path) == sha256


def _read(run: RunDirectory, path: Path, kind: type[Names]) -> Names | None:
    try:
        return run.read(path, kind)
    except msgspec.DecodeError as error:
        log.warning("unreadable", path=str(path), error=str(error))
        return None


async def _fetch(storage: Storage, key: str, target: Path) -> None:
    try:
        await storage.get_file(key, target)
    except ObjectMissing as error:
        raise StagingFailed(f"{target.name}: no object {key}") from error


async def _staged(storage: Storage, key: str, kind: type[Names]) -> Names | None:
    try:
        return msgspec.json.decode(await storage.get(key), type=kind)
    except ObjectMissing:
        return None


async def _put_all(storage: Storage, directory: Path, records: Sequence[FileRecord], prefix: str) -> bool:
    if not await asyncio.to_thread(verified, directory, records):
        log.warning("files are not as recorded", directory=str(directory))
        return False
    try:
        for record in records:
            await storage.put_file(f"{prefix}/{record.path}", inside(directory, record.path))
    except FileNotFoundError:
        # Dropped by the trainer between two files: a newer checkpoint has taken its place.
        return False
    return True
