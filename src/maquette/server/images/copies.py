"""Copies of drawn pictures in callers' buckets, as far as the operator has opened them.

An object's name holds its task's id, so that no task ever replaces another's pictures; an attempt that is repeated
replaces its own.
"""

import asyncio
import re
from collections.abc import Sequence

from msgspec import Struct

from maquette.core.errors import ErrorReason, FeatureNotAllowed, InvalidRequest, MaquetteError
from maquette.core.image_specs import AwsS3, CopyTarget
from maquette.core.picture_format import PictureFormat
from maquette.storage.base import StorageFailed
from maquette.storage.bucket import open_bucket
from maquette.storage.object_store import InvalidKey, check_key

FIELD = "extra.custom_storage.aws_s3"
OPENED = re.compile(r"(?:(.*?\S)\s*=\s*)?s3://([a-z0-9][a-z0-9._-]{1,62})(?:/(.*))?")
"""Whom a bucket is open to, its name, and a folder in it."""
REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""It becomes a part of a host's name."""


class OpenedBucket(Struct, frozen=True):
    """A bucket that requests may name, or a folder in it; "" is all of it.

    Attributes:
        tenant: name of the only one who may; "" is everyone.
    """

    bucket: str
    folder: str = ""
    tenant: str = ""

    def is_open_to(self, tenant: str) -> bool:
        """Whether requests of the tenant of this name may name it."""
        return self.tenant in {"", tenant}

    def holds(self, bucket: str, folder: str) -> bool:
        """Whether that folder of that bucket is open."""
        return bucket == self.bucket and (not self.folder or f"{folder}/".startswith(f"{self.folder}/"))


class NotCopied(Exception):
    """A picture did not reach the caller's bucket; the message says why."""


def read_opened(words: str) -> tuple[OpenedBucket, ...]:
    """Buckets written as `s3://bucket, s3://another/folder, tenant=s3://bucket/of/one`.

    Raises:
        ValueError: a word is no such address.
    """
    return tuple(_read_one(word.strip()) for word in words.split(",") if word.strip())


def _read_one(word: str) -> OpenedBucket:
    written = OPENED.fullmatch(word)
    if not written:
        raise ValueError(f"{word!r} is not written as s3://bucket, s3://bucket/folder or tenant=s3://bucket/folder")
    tenant, bucket, folder = written.groups(default="")
    return OpenedBucket(bucket, _folder(folder), tenant)


def read_target(asked: AwsS3, opened: Sequence[OpenedBucket], *, tenant: str) -> CopyTarget:
    """Where a request of the tenant of this name wants its pictures copied.

    Raises:
        FeatureNotAllowed: the operator has opened nothing.
        InvalidRequest: no region is called so.
        MaquetteError: INVALID_CUSTOM_OUTPUT_PATH, where the operator has not opened that place to this tenant, or no
            object can be there.
    """
    if not opened:
        raise FeatureNotAllowed(FIELD, "this server's operator has opened no bucket; leave it out")
    if not REGION.fullmatch(asked.region):
        raise InvalidRequest(f"{FIELD}.region", f"must be a region of S3, such as us-east-2, got {asked.region!r}")
    try:
        folder = _folder(asked.path)
    except ValueError as error:
        raise _unusable("path", str(error)) from None
    own = [one for one in opened if one.is_open_to(tenant)]
    if not any(one.bucket == asked.bucket for one in own):
        raise _unusable("bucket", f"{asked.bucket!r} is not open here; its operator can open it")
    if not any(one.holds(asked.bucket, folder) for one in own):
        raise _unusable("path", f"{asked.path!r} is not open here in the bucket {asked.bucket!r}")
    return CopyTarget(region=asked.region, bucket=asked.bucket, folder=folder, directly=asked.save_to_path_directly)


def key(target: CopyTarget, image_task_id: str, index: int, kind: PictureFormat) -> str:
    """What the copy of a task's picture is called: in a folder of the task's own, unless it is to lie in the path."""
    name = f"{image_task_id}{'-' if target.directly else '/'}{index}.{kind}"
    return f"{target.folder}/{name}" if target.folder else name


async def copy(target: CopyTarget, image_task_id: str, index: int, kind: PictureFormat, picture: bytes) -> None:
    """Put a task's picture into the caller's bucket.

    Raises:
        NotCopied: the bucket did not take it.
    """
    try:
        bucket = await asyncio.to_thread(open_bucket, target.bucket, target.region)
        await bucket.put(key(target, image_task_id, index, kind), picture, kind.content_type)
    except StorageFailed as error:
        raise NotCopied(f"{target.bucket}: {error}") from error


def _folder(path: str) -> str:
    """A path without slashes around it; "" is the bucket itself."""
    folder = path.strip("/")
    try:
        return check_key(folder) if folder else ""
    except InvalidKey:
        raise ValueError(
            f"must be of letters, digits and -_.=+@ between single slashes, none beginning with a dot, got {path!r}"
        ) from None


def _unusable(field: str, problem: str) -> MaquetteError:
    return MaquetteError(ErrorReason.INVALID_CUSTOM_OUTPUT_PATH, f"{FIELD}.{field}: {problem}")
