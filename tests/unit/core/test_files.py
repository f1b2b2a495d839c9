import os
from collections.abc import Generator
from pathlib import Path

import pytest

from maquette.core.files import FOR_THE_USER, atomic_file, write_atomic


@pytest.fixture
def umask() -> Generator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


def test_a_file_is_there_whole_and_alone(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")
    write_atomic(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_broken_off_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def break_off() -> None:
        with atomic_file(target) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.usefixtures("umask")
def test_what_a_person_asked_for_gets_their_usual_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "private", b"")
    with atomic_file(tmp_path / "public", FOR_THE_USER):
        pass
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "public": 0o640}
