"""Names that other packages bring, installed as an installer leaves them."""

from pathlib import Path

import pytest

from maquette.core.registry import Registry, UnknownName, load_dotted

GROUP = "maquette.test_things"


def install(site: Path, package: str, name: str, value: str) -> None:
    about = site / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def things() -> Registry:
    return Registry("thing", GROUP, {"join": "os.path:join", "broken": "no.such.module:thing"})


def test_ours_and_those_of_packages_are_loaded_by_name(things: Registry, site: Path) -> None:
    install(site, "brought", "split", "os.path:split")
    assert things.names() == ["join", "broken", "split"]
    assert things.load("join")("a", "b") == "a/b"
    assert things.load("split")("a/b") == ("a", "b")


def test_an_unknown_name_is_told_with_those_there_are(things: Registry) -> None:
    with pytest.raises(UnknownName, match="no thing 'glue' in this installation; it has join, broken"):
        things.load("glue")


def test_a_name_that_two_bring_is_nobodys(things: Registry, site: Path) -> None:
    install(site, "first", "split", "os.path:split")
    install(site, "second", "split", "os.path:dirname")
    install(site, "third", "join", "os.path:dirname")
    with pytest.raises(
        UnknownName, match=r"the thing 'split' is registered more than once: os.path:dirname and os.path:split"
    ):
        things.load("split")
    with pytest.raises(
        UnknownName, match=r"the thing 'join' is registered more than once: os.path:dirname and os.path:join"
    ):
        things.load("join")
    assert things.names() == ["join", "broken", "split"]


def test_what_is_not_asked_for_is_not_loaded(things: Registry) -> None:
    with pytest.raises(ImportError):
        things.load("broken")
    assert load_dotted("os.path:join")("a", "b") == "a/b"
