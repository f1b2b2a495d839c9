"""One suite for every storage: a local directory, memory, and S3 spoken to a real HTTP server."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from maquette.core.registry import UnknownName
from maquette.storage.base import ObjectMissing, Storage, StorageFailed
from maquette.storage.bucket import open_bucket
from maquette.storage.object_store import InvalidKey
from maquette.storage.registry import open_storage
from maquette.testing.s3 import S3Server, s3_server

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that the environment names; its one bucket is `pictures`."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.empty("pictures")
    return server


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    match request.param:
        case "local":
            return open_storage(f"file://{tmp_path}/store")
        case "memory":
            return open_storage("memory://")
        case _:
            request.getfixturevalue("s3")
            return open_storage("s3://pictures/some/prefix")


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def breaking_off(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    raise ConnectionResetError("the client went away")


def files_under(path: Path) -> list[Path]:
    return [found for found in path.rglob("*") if found.is_file()]


async def keys(storage: Storage, prefix: str = "") -> list[str]:
    return sorted([info.key async for info in storage.list(prefix)])


async def test_bytes_come_back_as_they_were_put(storage: Storage) -> None:
    before = time.time() - 1
    await storage.put("a/b/c.bin", b"\x00\xffdata")
    assert await storage.get("a/b/c.bin") == b"\x00\xffdata"
    info = await storage.head("a/b/c.bin")
    assert (info.key, info.size) == ("a/b/c.bin", 6)
    assert before <= info.stored_at <= time.time() + 1
    assert [found async for found in storage.list("a")] == [info]


async def test_put_replaces(storage: Storage) -> None:
    await storage.put("a", b"a longer first version")
    await storage.put("a", b"second")
    assert await storage.get("a") == b"second"


async def test_empty_object(storage: Storage) -> None:
    await storage.put("empty", b"")
    assert await storage.get("empty") == b""
    assert b"".join([chunk async for chunk in storage.stream("empty")]) == b""
    assert await storage.put_stream("empty-stream", chunks()) == 0
    assert (await storage.head("empty-stream")).size == 0


async def test_long_stream_comes_back_as_it_was(storage: Storage) -> None:
    parts = [os.urandom(MEGABYTE) for _ in range(12)]
    assert await storage.put_stream("long", chunks(*parts)) == 12 * MEGABYTE
    digest = hashlib.sha256()
    async for chunk in storage.stream("long"):
        digest.update(chunk)
    assert digest.digest() == hashlib.sha256(b"".join(parts)).digest()


@pytest.mark.parametrize("megabytes", [0, 1, 11])
async def test_stream_that_breaks_off_leaves_nothing(storage: Storage, megabytes: int) -> None:
    with pytest.raises(ConnectionResetError):
        await storage.put_stream("broken", breaking_off(*[b"x" * MEGABYTE] * megabytes))
    assert await keys(storage) == []
    with pytest.raises(ObjectMissing):
        await storage.get("broken")


async def test_stream_that_breaks_off_leaves_what_was_there(storage: Storage) -> None:
    await storage.put("kept", b"first")
    with pytest.raises(ConnectionResetError):
        await storage.put_stream("kept", breaking_off(b"second"))
    assert await storage.get("kept") == b"first"


async def test_cancelled_stream_leaves_nothing(storage: Storage) -> None:
    under_way = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * MEGABYTE
            under_way.set()
            await asyncio.sleep(0.001)

    upload = asyncio.create_task(storage.put_stream("endless", endless()))
    await under_way.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await keys(storage) == []


async def test_files_go_in_and_out(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(6 * MEGABYTE))
    await storage.put_file("file", source)
    await storage.get_file("file", target)
    assert target.read_bytes() == source.read_bytes()


async def test_missing_file_is_not_a_missing_object(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await storage.put_file("file", tmp_path / "nowhere")
    assert await keys(storage) == []


async def test_missing_objects_are_told_apart_from_failures(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        await storage.get("nothing/here")
    with pytest.raises(ObjectMissing):
        await storage.head("nothing/here")
    with pytest.raises(ObjectMissing):
        await anext(aiter(storage.stream("nothing/here")))
    with pytest.raises(ObjectMissing):
        await storage.get_file("nothing/here", tmp_path / "target")
    with pytest.raises(ObjectMissing):
        await storage.copy("nothing/here", "there")
    assert files_under(tmp_path) == []


async def test_copy_is_independent_of_its_source(storage: Storage) -> None:
    await storage.put("uploads/one", b"picture")
    await storage.put("sealed/one", b"to be replaced")
    await storage.copy("uploads/one", "sealed/one")
    await storage.put("uploads/one", b"another picture")
    assert await storage.get("sealed/one") == b"picture"
    await storage.delete("uploads/one")
    assert await storage.get("sealed/one") == b"picture"


async def test_copying_twice_leaves_one_object(storage: Storage) -> None:
    await storage.put("uploads/one", b"picture")
    for _ in range(3):
        await storage.copy("uploads/one", "sealed/one")
    assert await storage.get("sealed/one") == b"picture"
    assert await keys(storage) == ["sealed/one", "uploads/one"]


async def test_deleting_twice_is_harmless(storage: Storage) -> None:
    await storage.put("gone/soon", b"x")
    await storage.delete("gone/soon")
    await storage.delete("gone/soon")
    await storage.delete("never/was")
    assert await keys(storage) == []


async def test_list_takes_whole_parts_of_keys(storage: Storage) -> None:
    for key in ("tasks/1/a", "tasks/1/b/c", "tasks/10/a", "tasks/1", "other"):
        # A file can't be a directory as well, so on local disks no key is another one's folder.
        if key != "tasks/1":
            await storage.put(key, key.encode())
    assert await keys(storage, "tasks/1") == ["tasks/1/a", "tasks/1/b/c"]
    assert await keys(storage) == ["other", "tasks/1/a", "tasks/1/b/c", "tasks/10/a"]
    assert await keys(storage, "nobody") == []
    sizes = {info.key: info.size async for info in storage.list("tasks")}
    assert sizes == {key: len(key) for key in ("tasks/1/a", "tasks/1/b/c", "tasks/10/a")}


async def test_deleting_while_listing(storage: Storage) -> None:
    names = [f"many/{number:03d}" for number in range(60)]
    for name in names:
        await storage.put(name, b"x")
    seen: list[str] = []
    async for info in storage.list("many"):
        seen.append(info.key)
        await storage.delete(info.key)
    assert sorted(seen) == names
    assert await keys(storage) == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "a/../b", "../../etc/passwd", ".staging/a", "a b", "a#1", "ä", "a" * 1025]
)
async def test_harmful_keys_are_refused(storage: Storage, key: str, tmp_path: Path) -> None:
    for call in (
        storage.put(key, b""),
        storage.put_stream(key, chunks()),
        storage.put_file(key, tmp_path),
        storage.get(key),
        storage.get_file(key, tmp_path / "target"),
        storage.head(key),
        storage.copy("a", key),
        storage.copy(key, "a"),
        storage.delete(key),
        anext(aiter(storage.stream(key))),
    ):
        with pytest.raises(InvalidKey):
            await call


async def test_many_writers_of_one_key(storage: Storage) -> None:
    versions = [bytes([number]) * 50_000 for number in range(8)]
    await asyncio.gather(*(storage.put("contended", version) for version in versions))
    assert await storage.get("contended") in versions


async def test_local_objects_survive_the_process_and_leave_no_scraps(tmp_path: Path) -> None:
    await open_storage(str(tmp_path / "with space")).put_stream("a/b", chunks(b"1", b"2"))
    again = open_storage(f"file://{tmp_path}/with%20space")
    assert await again.get("a/b") == b"12"
    assert files_under(tmp_path) == [tmp_path / "with space/a/b"]


async def test_nothing_of_an_erased_local_object_stays_on_the_disk(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    await storage.put("a", b"picture")
    for _ in range(3):
        await storage.copy("a", "b")
    for key in ("a", "b"):
        await storage.delete(key)
    assert files_under(tmp_path) == []


async def test_local_storage_drops_old_scraps_only(tmp_path: Path) -> None:
    open_storage(str(tmp_path))
    old, young = tmp_path / ".staging/old", tmp_path / ".staging/young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))
    again = open_storage(str(tmp_path))
    assert not old.exists()
    assert young.exists()
    assert await keys(again) == []


async def test_long_local_objects_are_read_in_chunks(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    await storage.put("long", os.urandom(12 * MEGABYTE))
    assert max([len(chunk) async for chunk in storage.stream("long")]) <= 2 * MEGABYTE


async def test_s3_that_is_away_fails_as_an_os_error(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageFailed, match="not found"):
        await open_storage("s3://no-such-bucket").put("a", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageFailed):
        await open_storage("s3://pictures").get("a")


async def test_what_is_put_into_a_callers_bucket_is_what_its_owner_gets(s3: S3Server) -> None:
    bucket = open_bucket("pictures", "us-east-1")
    await bucket.put("a/b.png", b"first", "image/png")
    await bucket.put("a/b.png", b"x" * 6 * MEGABYTE, "image/webp")
    found = s3.get("pictures", "a/b.png")
    assert (found.status_code, found.headers["content-type"], len(found.content)) == (200, "image/webp", 6 * MEGABYTE)


async def test_a_callers_bucket_that_is_away_fails(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageFailed):
        await open_bucket("no-such-bucket", "us-east-1").put("a", b"x", "image/png")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageFailed):
        await open_bucket("pictures", "us-east-1").put("a", b"x", "image/png")


@pytest.mark.parametrize("url", ["ftp://host/dir", "memoryy://", "file://elsewhere/dir", ""])
def test_unknown_urls_are_refused(url: str) -> None:
    with pytest.raises((UnknownName, ValueError)):
        open_storage(url)
