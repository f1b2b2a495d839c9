"""Entries are whole or not there, whoever writes, kills or deletes meanwhile."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from maquette.trainer.tensor_store import TensorStore

pytestmark = pytest.mark.torch

ROOM = 1 << 20
ENTRY = {"mean": torch.arange(256, dtype=torch.float32)}
"""1024 bytes of numbers."""


def store(root: Path, max_bytes: int = ROOM, context: str = "a base") -> TensorStore:
    return TensorStore(root, max_bytes, context)


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tensors = {"mean": torch.rand(2, 3), "half": torch.rand(4).to(torch.bfloat16)}
    store(tmp_path).write("picture", "a name", tensors, {"facts": "{}"})
    found = store(tmp_path).read("picture", "a name")
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
    store(tmp_path).write("picture", "a name", ENTRY)
    assert store(tmp_path, context=context).read(owner, name) is None
    assert store(tmp_path, context=context).notes(owner, name) is None


def test_all_of_an_owners_lies_in_one_folder(tmp_path: Path) -> None:
    """So that what was made of a picture can be erased with it."""
    store(tmp_path).write("picture", "one", ENTRY)
    store(tmp_path, context="another base").write("picture", "two", ENTRY)
    store(tmp_path).write("other", "three", ENTRY)
    assert len(files(tmp_path / "picture")) == 2


@pytest.mark.parametrize("damage", [b"", b"words", "half"])
def test_what_is_damaged_counts_as_missing_and_is_written_anew(tmp_path: Path, damage: bytes | str) -> None:
    kept = store(tmp_path)
    kept.write("picture", "a name", ENTRY)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-100] if isinstance(damage, str) else damage)
    assert kept.read("picture", "a name") is None
    kept.write("picture", "a name", ENTRY)
    assert kept.read("picture", "a name") is not None


def used_at(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def test_the_least_recently_used_go_when_there_are_too_many(tmp_path: Path) -> None:
    kept = store(tmp_path, 4000)
    for index, owner in enumerate("abc"):
        kept.write(owner, "x", ENTRY)
        (file,) = files(tmp_path / owner)
        used_at(file, 1000 + index)
    assert kept.read("a", "x") is not None
    kept.write("d", "x", ENTRY)
    assert [kept.read(owner, "x") is not None for owner in "abcd"] == [True, False, True, True]
    assert not (tmp_path / "b").exists()


def test_the_limit_holds_for_what_others_have_written(tmp_path: Path) -> None:
    for index in range(10):
        store(tmp_path).write(f"{index}", "x", ENTRY)
    store(tmp_path, 4000).write("mine", "x", ENTRY)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 4000
    assert store(tmp_path).read("mine", "x") is not None


def test_what_is_larger_than_the_limit_is_not_kept_at_all(tmp_path: Path) -> None:
    store(tmp_path, 0).write("picture", "x", ENTRY)
    store(tmp_path, 1000).write("picture", "x", ENTRY)
    assert files(tmp_path) == []


def test_what_dead_writers_left_goes_in_time(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.write("picture", "x", ENTRY)
    old, new = tmp_path / "picture" / ".old.safetensors", tmp_path / "picture" / ".new.safetensors"
    for file in (old, new):
        file.write_bytes(bytes(100))
    used_at(old, time.time() - 7200)
    store(tmp_path).write("picture", "y", ENTRY)
    assert not old.exists()
    assert new.exists()


def test_a_disk_that_refuses_costs_time_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "picture").write_text("a file where a folder should be")
    kept = store(tmp_path)
    kept.write("picture", "x", ENTRY)
    assert kept.read("picture", "x") is None


WRITER = """
import sys, torch
from pathlib import Path
from maquette.trainer.tensor_store import TensorStore
store = TensorStore(Path(sys.argv[1]), 60_000, "a base")
print("ready", flush=True)
for turn in range(100_000):
    number = turn % 40
    found = store.read(f"{number % 5}", f"{number}")
    assert found is None or torch.equal(found["mean"], torch.full((1000,), float(number))), number
    store.write(f"{number % 5}", f"{number}", {"mean": torch.full((1000,), float(number))})
"""


def test_writers_side_by_side_that_are_killed_at_any_line_leave_whole_entries(tmp_path: Path) -> None:
    """Their folder holds 15 entries, and each goes through 40: they delete one another's all the time."""
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
        found = [kept.read(f"{number % 5}", f"{number}") for number in range(40)]
        assert any(found)
        assert all(
            tensors is None or torch.equal(tensors["mean"], torch.full((1000,), float(number)))
            for number, tensors in enumerate(found)
        )
    whole = [path for path in files(tmp_path) if not path.name.startswith(".")]
    # Beyond the limit at most what each writer had just written.
    assert sum(path.stat().st_size for path in whole) <= 60_000 + 4 * 5000
