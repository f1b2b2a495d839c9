"""LoRA files on disk: whole or not there, never more than the bound, never taken from under a job."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maquette.core.ids import sha256_hex
from maquette.serving.base import JobRefused, StoredLora
from maquette.serving.staging import Held, LoraCache
from maquette.storage.base import ObjectMissing, StorageFailed
from maquette.storage.object_store import MemoryStore, ObjectStorage

SIZE = 1000
LIMIT = 3 * SIZE


class Store(ObjectStorage):
    """Storage in memory that counts what is fetched, and can be held up or break."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.fetched: list[str] = []
        self.closed_gates: dict[str, asyncio.Event] = {}
        self.broken = False

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        self.fetched.append(key)
        async for chunk in super().stream(key):
            yield chunk[: SIZE // 2]
            if key in self.closed_gates:
                await self.closed_gates[key].wait()
            if self.broken:
                raise StorageFailed("the store is away")
            yield chunk[SIZE // 2 :]

    async def lora(self, name: str, *, size: int = SIZE) -> StoredLora:
        data = name.encode().ljust(size, b".")
        await self.put(f"models/{name}", data)
        return StoredLora(key=f"models/{name}", sha256=sha256_hex(data))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def cache(store: Store, tmp_path: Path) -> LoraCache:
    return opened(store, tmp_path)


def opened(store: Store, root: Path) -> LoraCache:
    cache = LoraCache(root, store, LIMIT)
    cache.open()
    return cache


async def fetched(cache: LoraCache, *loras: StoredLora) -> Held:
    held = cache.hold(loras)
    try:
        await held.fetch()
    except BaseException:
        held.release()
        raise
    return held


async def used(cache: LoraCache, *loras: StoredLora) -> None:
    (await fetched(cache, *loras)).release()


def contents(held: Held) -> list[bytes]:
    return [Path(path).read_bytes() for path in held.paths]


def size_of(root: Path) -> int:
    return sum(path.stat().st_size for path in root.iterdir())


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def file_names(*loras: StoredLora) -> set[str]:
    return {f"{lora.sha256}.safetensors" for lora in loras}


async def test_file_is_the_object_and_is_fetched_once(cache: LoraCache, store: Store, tmp_path: Path) -> None:
    lora = await store.lora("one")
    for _ in range(2):
        held = await fetched(cache, lora, lora)
        assert held.paths == (str(cache.path(lora.sha256)),) * 2
        assert contents(held) == [await store.get(lora.key)] * 2
        held.release()
        held.release()
    assert store.fetched == [lora.key]
    assert names(tmp_path) == file_names(lora)


async def test_least_recently_used_make_room_and_held_ones_stay(cache: LoraCache, store: Store, tmp_path: Path) -> None:
    one, two, three, four, five = [await store.lora(name) for name in ("one", "two", "three", "four", "five")]
    held = await fetched(cache, one)
    await used(cache, two)
    await used(cache, three)
    await used(cache, two)
    await used(cache, four)
    assert names(tmp_path) == file_names(one, two, four)
    await used(cache, five)
    assert names(tmp_path) == file_names(one, four, five)
    held.release()


async def test_job_waits_for_room_and_never_exceeds_the_bound(cache: LoraCache, store: Store, tmp_path: Path) -> None:
    loras = [await store.lora(str(number)) for number in range(8)]
    held = [await fetched(cache, *loras[:2]), await fetched(cache, loras[2])]
    waiting: list[asyncio.Task[Held]] = []
    for loras_of_job in (loras[3:5], loras[5:6]):
        waiting.append(asyncio.create_task(fetched(cache, *loras_of_job)))
        await asyncio.sleep(0.05)
    # Those whose files are there do not wait behind those.
    await used(cache, loras[1])
    assert not any(task.done() for task in waiting)
    assert names(tmp_path) == file_names(*loras[:3])
    held[1].release()
    await asyncio.sleep(0.05)
    # There is room for the second now, but the first came first.
    assert not any(task.done() for task in waiting)
    held[0].release()
    held = [await task for task in waiting]
    assert names(tmp_path) == file_names(*loras[3:6])


async def test_jobs_that_need_all_the_room_do_not_lock_each_other(
    cache: LoraCache, store: Store, tmp_path: Path
) -> None:
    loras = [await store.lora(str(number)) for number in range(7)]
    big = await store.lora("big", size=2 * LIMIT)
    most = 0

    async def one(turn: int) -> None:
        nonlocal most
        held = await fetched(cache, *(loras[(turn * step) % 7] for step in (1, 2, 3)))
        assert len(contents(held)) == 3
        most = max(most, size_of(tmp_path))
        await asyncio.sleep(0.001)
        assert len(contents(held)) == 3
        held.release()

    async with asyncio.timeout(20):
        await asyncio.gather(*(one(turn) for turn in range(40)))
        assert most <= LIMIT
        # One that is larger than all the room gets it alone.
        await used(cache, big)
    assert names(tmp_path) == file_names(big)


async def test_wrong_bytes_missing_object_and_broken_store_leave_nothing(
    cache: LoraCache, store: Store, tmp_path: Path
) -> None:
    lora = await store.lora("one")
    for wrong in (b"other".ljust(SIZE), b"short"):
        await store.put(lora.key, wrong)
        with pytest.raises(JobRefused, match=r"models/one is not the LoRA"):
            await used(cache, lora)
    await store.delete(lora.key)
    with pytest.raises(ObjectMissing):
        await used(cache, lora)
    lora = await store.lora("one")
    store.broken = True
    with pytest.raises(StorageFailed):
        await used(cache, lora)
    assert names(tmp_path) == set()
    store.broken = False
    await used(cache, lora)
    assert names(tmp_path) == file_names(lora)


async def test_disk_that_fails_is_a_failure_of_storage(store: Store, tmp_path: Path) -> None:
    cache = opened(store, tmp_path / "there")
    lora = await store.lora("one")
    (tmp_path / "there").rmdir()
    with pytest.raises(StorageFailed, match="to this node"):
        await used(cache, lora)


async def test_two_jobs_share_a_fetch_but_not_its_failure(cache: LoraCache, store: Store) -> None:
    lora = await store.lora("one")
    await store.put("models/spoiled", b"x")
    spoiled = StoredLora(key="models/spoiled", sha256=lora.sha256)
    gate = store.closed_gates["models/spoiled"] = asyncio.Event()
    first = asyncio.create_task(used(cache, spoiled))
    await asyncio.sleep(0.02)
    others = [asyncio.create_task(used(cache, lora)) for _ in range(3)]
    await asyncio.sleep(0.02)
    gate.set()
    with pytest.raises(JobRefused):
        await first
    await asyncio.gather(*others)
    assert store.fetched == ["models/spoiled", lora.key]


async def test_cancelled_fetch_leaves_nothing_and_the_next_goes_on(
    cache: LoraCache, store: Store, tmp_path: Path
) -> None:
    lora, other = await store.lora("one"), await store.lora("two", size=LIMIT)
    gate = store.closed_gates[lora.key] = asyncio.Event()
    first = asyncio.create_task(used(cache, lora))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(used(cache, lora))
    waiting = asyncio.create_task(used(cache, other))
    await asyncio.sleep(0.02)
    first.cancel()
    gate.set()
    await second
    # What waits for room does not hold it against others when it is cancelled.
    waiting.cancel()
    await asyncio.gather(first, waiting, return_exceptions=True)
    await used(cache, other)
    assert names(tmp_path) == file_names(other)


async def test_slow_fetch_holds_up_no_other_job(cache: LoraCache, store: Store) -> None:
    slow, quick = await store.lora("slow"), await store.lora("quick")
    gate = store.closed_gates[slow.key] = asyncio.Event()
    first = asyncio.create_task(used(cache, slow))
    await asyncio.sleep(0.02)
    async with asyncio.timeout(5):
        await used(cache, quick)
    assert not first.done()
    gate.set()
    await first


async def test_reopened_cache_keeps_whole_files_and_trusts_none_unseen(
    cache: LoraCache, store: Store, tmp_path: Path
) -> None:
    one, two = await store.lora("one"), await store.lora("two")
    await used(cache, one, two)
    cache.path(two.sha256).write_bytes(b"rotten".ljust(SIZE))
    (tmp_path / ".half").write_bytes(b"left by a dead process")
    store.fetched.clear()
    again = opened(store, tmp_path)
    assert names(tmp_path) == file_names(one, two)
    held = await fetched(again, one, two)
    assert store.fetched == [two.key]
    assert [sha256_hex(data) for data in contents(held)] == [one.sha256, two.sha256]
    held.release()


async def test_reopened_cache_drops_what_is_over_the_bound_oldest_first(store: Store, tmp_path: Path) -> None:
    loras = [await store.lora(str(number)) for number in range(5)]
    for age, lora in enumerate(loras):
        path = tmp_path / f"{lora.sha256}.safetensors"
        path.write_bytes(await store.get(lora.key))
        os.utime(path, (1000 - age, 1000 - age))
    opened(store, tmp_path)
    assert names(tmp_path) == file_names(*loras[:3])


async def test_file_deleted_by_somebody_is_fetched_again(cache: LoraCache, store: Store) -> None:
    lora = await store.lora("one")
    await used(cache, lora)
    cache.path(lora.sha256).unlink()
    held = await fetched(cache, lora)
    assert contents(held) == [await store.get(lora.key)]
    held.release()


def test_only_a_hash_is_a_name(cache: LoraCache) -> None:
    for name in ("../../etc/passwd", "A" * 64, "a" * 63, ""):
        with pytest.raises(ValueError, match="not a SHA-256"):
            cache.hold((StoredLora(key="models/one", sha256=name),))
