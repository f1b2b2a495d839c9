"""Entries are whole or not there, whoever writes, kills or deletes meanwhile."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maquette.trainer.tensor_store import Entry, TensorStore
from maquette.trainer.tensors import write_tensors

pytestmark = pytest.mark.torch

ROOM = 1 << 20
TENSORS = {"mean": torch.arange(256, dtype=torch.float32)}
"""1024 bytes of numbers."""
PICTURE = Entry("picture", "a name", {"facts": "{}"})


def store(root: Path, max_bytes: int = ROOM, context: str = "a base") -> TensorStore:
    return TensorStore(root, max_bytes, context)


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tensors = {"mean": torch.rand(2, 3), "half": torch.rand(4).to(torch.bfloat16)}
    store(tmp_path).write(PICTURE, tensors)
    found = store(tmp_path).read(PICTURE)
    assert found is not None
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert store(tmp_path).notes("picture", "a name") == {"facts": "{}"}


@pytest.mark.parametrize(
    ("owner", "name", "context"),
    [("other", "a name", "a base"), ("picture", "another", "a base"), ("picture", "a name", "another base")],
)
def test_only_the_same_owner_name_and_context_see_it(tmp_path: Path, owner: str, name: str, context: str) -> None:
    store(tmp_path).write(Entry("picture", "a name"), TENSORS)
    assert store(tmp_path, context=context).read(Entry(owner, name)) is None
    assert store(tmp_path, context=context).notes(owner, name) is None


def test_all_of_an_owners_lies_in_one_folder(tmp_path: Path) -> None:
    """So that what was made of a picture can be erased with it."""
    store(tmp_path).write(Entry("picture", "one"), TENSORS)
    store(tmp_path, context="another base").write(Entry("picture", "two"), TENSORS)
    store(tmp_path).write(Entry("other", "three"), TENSORS)
    assert len(files(tmp_path / "picture")) == 2


def flipped(data: bytes, bit: int) -> bytes:
    """The same but for a bit."""
    place, within = divmod(bit, 8)
    return data[:place] + bytes([data[place] ^ 1 << within]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damaged",
    [
        lambda _: b"",
        lambda _: b"words",
        lambda data: data[:-100],
        lambda data: data[:100],
        lambda data: data + data,
        lambda data: flipped(data, 8 * (len(data) - 1)),
        lambda data: data.replace(rb"{\"notes\"", rb"{\"votes\""),
        lambda data: data.replace(b'"F32","shape":[256]', b'"F4","shape":[2048]'),
    ],
    ids=[
        "empty",
        "words",
        "half",
        "half a header",
        "twice",
        "a bit of a number",
        "a bit of the label",
        "a type that torch lacks",
    ],
)
def test_what_is_damaged_counts_as_missing_and_is_written_anew(
    tmp_path: Path, damaged: Callable[[bytes], bytes]
) -> None:
    kept = store(tmp_path)
    kept.write(PICTURE, TENSORS)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damaged(whole))
    assert file.read_bytes() != whole
    assert kept.read(PICTURE) is None
    kept.write(PICTURE, TENSORS)
    assert file.read_bytes() == whole
    assert kept.read(PICTURE) is not None


def test_no_bit_can_flip_unnoticed(tmp_path: Path) -> None:
    """Notes are read without tensors: they are the same, or missing. Of most bytes one bit is tried."""
    kept = store(tmp_path)
    kept.write(PICTURE, {"mean": torch.arange(6.0).view(2, 3), "ids": torch.arange(2)})
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 9):
        file.write_bytes(flipped(whole, bit))
        assert kept.read(PICTURE) is None, bit
        assert kept.notes(PICTURE.owner, PICTURE.name) in (None, PICTURE.notes), bit


def test_what_an_older_version_kept_counts_as_missing_and_is_written_over(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.write(PICTURE, TENSORS)
    (file,) = files(tmp_path)
    write_tensors(file, {"mean": torch.full((256,), torch.nan)}, {"facts": "{}"})
    assert kept.notes(PICTURE.owner, PICTURE.name) is None
    assert kept.read(PICTURE) is None
    kept.write(PICTURE, TENSORS)
    assert kept.read(PICTURE) is not None
    assert files(tmp_path) == [file]


def test_what_was_kept_with_other_notes_is_another_entry(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.write(replace(PICTURE, notes={"facts": "what no version writes any more"}), TENSORS)
    assert kept.read(PICTURE) is None
    kept.write(PICTURE, TENSORS)
    assert kept.read(PICTURE) is not None


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_not_finite_is_not_kept(tmp_path: Path, number: float) -> None:
    store(tmp_path).write(PICTURE, TENSORS | {"std": torch.tensor([1.0, number])})
    assert files(tmp_path) == []


def used_at(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def test_the_least_recently_used_go_when_there_are_too_many(tmp_path: Path) -> None:
    kept = store(tmp_path, 5000)
    for index, owner in enumerate("abc"):
        kept.write(Entry(owner, "x"), TENSORS)
        (file,) = files(tmp_path / owner)
        used_at(file, 1000 + index)
    assert kept.read(Entry("a", "x")) is not None
    kept.write(Entry("d", "x"), TENSORS)
    assert [kept.read(Entry(owner, "x")) is not None for owner in "abcd"] == [True, False, True, True]
    assert not (tmp_path / "b").exists()


def test_the_limit_holds_for_what_others_have_written(tmp_path: Path) -> None:
    for index in range(10):
        store(tmp_path).write(Entry(f"{index}", "x"), TENSORS)
    store(tmp_path, 4000).write(Entry("mine", "x"), TENSORS)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 4000
    assert store(tmp_path).read(Entry("mine", "x")) is not None


def test_what_is_larger_than_the_limit_is_not_kept_at_all(tmp_path: Path) -> None:
    store(tmp_path, 0).write(Entry("picture", "x"), TENSORS)
    store(tmp_path, 1000).write(Entry("picture", "x"), TENSORS)
    assert files(tmp_path) == []


def test_what_dead_writers_left_goes_in_time(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.write(Entry("picture", "x"), TENSORS)
    old, new = tmp_path / "picture" / ".old.safetensors", tmp_path / "picture" / ".new.safetensors"
    for file in (old, new):
        file.write_bytes(bytes(100))
    used_at(old, time.time() - 7200)
    store(tmp_path).write(Entry("picture", "y"), TENSORS)
    assert not old.exists()
    assert new.exists()


def test_a_disk_that_refuses_costs_time_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "picture").write_text("a file where a folder should be")
    kept = store(tmp_path)
    kept.write(Entry("picture", "x"), TENSORS)
    assert kept.read(Entry("picture", "x")) is None


WRITER = """
import sys, torch
from pathlib import Path
from maquette.trainer.tensor_store import Entry, TensorStore
store = TensorStore(Path(sys.argv[1]), 60_000, "a base")
print("ready", flush=True)
for turn in range(100_000):
    number = turn % 40
    entry = Entry(f"{number % 5}", f"{number}")
    found = store.read(entry)
    assert found is None or torch.equal(found["mean"], torch.full((1000,), float(number))), number
    store.write(entry, {"mean": torch.full((1000,), float(number))})
"""


def test_writers_side_by_side_that_are_killed_at_any_line_leave_whole_entries(tmp_path: Path) -> None:
    """Their folder holds 13 entries, and each goes through 40: they delete one another's all the time."""
    for _ in range(2):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.7)
        for writer in writers:
            assert writer.poll() is None, "it met an entry that was not as it was written"
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        kept = store(tmp_path)
        found = [kept.read(Entry(f"{number % 5}", f"{number}")) for number in range(40)]
        assert any(found)
        assert all(
            tensors is None or torch.equal(tensors["mean"], torch.full((1000,), float(number)))
            for number, tensors in enumerate(found)
        )
    whole = [path for path in files(tmp_path) if not path.name.startswith(".")]
    # Beyond the limit at most what each writer had just written.
    assert sum(path.stat().st_size for path in whole) <= 60_000 + 4 * 5000
