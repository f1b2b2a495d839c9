"""What a hub is asked for, and what is said where it does not give it. The hub is one on loopback."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import pytest

from maquette.bases.hub import Hub, HubId, Listing, Unobtainable, parse_hub_id
from maquette.testing.hub import HubServer, hub_server

WEIGHTS = bytes(range(256)) * 4096
"""A megabyte."""
REPOSITORY = "studio/base"
PLACE = f"{REPOSITORY}/unet/w.safetensors"
CARD = b"a card"


@pytest.fixture
def server() -> Generator[HubServer]:
    with hub_server() as server:
        server.repositories[REPOSITORY] = {"README.md": CARD, "unet/w.safetensors": WEIGHTS}
        yield server


@pytest.fixture
def hub(server: HubServer) -> Generator[Hub]:
    """One that does not wait before it gives up."""
    hub = Hub(server.environment, waits=())
    yield hub
    hub.close()


def listing_of(hub: Hub, place: str = REPOSITORY) -> Listing:
    found = parse_hub_id(place)
    assert found
    return hub.listing(found)


def fetch(hub: Hub, path: Path, name: str = "unet/w.safetensors") -> list[int]:
    """Fetch a file; answers what was reported of it."""
    reports: list[int] = []
    listing = listing_of(hub)
    hub.fetch(listing, listing.files[name], path, reports.append)
    return reports


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("org/name", HubId("org/name")),
        ("org/name@v1.5", HubId("org/name", "v1.5")),
        ("a-b_c/x.y-1@abc/vae", HubId("a-b_c/x.y-1", "abc", "vae")),
        ("org/name/vae/", HubId("org/name", path="vae")),
        ("org/name/a/b.safetensors", HubId("org/name", path="a/b.safetensors")),
        *((no, None) for no in ("name", "./org/name", "../org", "/org/name", "~/org", "org/", "org/../x", "")),
        *((no, None) for no in ("org/file.safetensors", "a b/c", "https://some.where/org/name", "org/name@")),
    ],
)
def test_what_can_be_a_place_on_a_hub(text: str, place: HubId | None) -> None:
    assert parse_hub_id(text) == place


def test_a_place_is_written_as_it_is_read() -> None:
    for text in ("org/name", "org/name@v1", "org/name@v1/vae", "org/name/x.safetensors"):
        assert str(parse_hub_id(text)) == text


def test_the_publics_own_client_takes_our_hub_for_one(server: HubServer, tmp_path: Path) -> None:
    """In a process of its own: it reads the address when it is imported, and asks for more than files."""
    download = f"import huggingface_hub; huggingface_hub.snapshot_download({REPOSITORY!r}, local_dir={str(tmp_path)!r})"
    home = {"HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", download], env=os.environ | server.environment | home, check=True)
    assert (tmp_path / "README.md").read_bytes() == CARD
    assert (tmp_path / "unet" / "w.safetensors").read_bytes() == WEIGHTS


def test_a_listing_names_sizes_hashes_and_the_commit(server: HubServer, hub: Hub) -> None:
    listing = listing_of(hub)
    assert listing.commit == server.commit(REPOSITORY)
    assert {name: file.size for name, file in listing.files.items()} == {
        "README.md": len(CARD),
        "unet/w.safetensors": len(WEIGHTS),
    }
    assert listing_of(hub, f"{REPOSITORY}@{listing.commit}") == listing
    (file,) = listing_of(hub, f"{REPOSITORY}/unet").files.items()
    assert file == ("w.safetensors", listing.files["unet/w.safetensors"])
    assert listing_of(hub, PLACE).files == dict([file])


@pytest.mark.parametrize(("name", "content"), [("unet/w.safetensors", WEIGHTS), ("README.md", CARD)])
def test_a_file_is_fetched_and_reported(hub: Hub, tmp_path: Path, name: str, content: bytes) -> None:
    reports = fetch(hub, tmp_path / "w", name)
    assert (tmp_path / "w").read_bytes() == content
    assert reports == sorted(reports)
    assert reports[-1] == len(content)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_cut_connection_is_taken_up_where_it_broke_off(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.cuts[PLACE] = [300_000, 500_000]
    fetch(hub, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert server.starts(PLACE) == [0, 300_000, 800_000]


def test_what_an_earlier_call_left_is_taken_up_by_the_next(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.cuts[PLACE] = [300_000, 0]
    with pytest.raises(
        Unobtainable, match=r"w.safetensors of studio/base at 300000 of 1048576 bytes .*it goes on from"
    ):
        fetch(hub, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    assert fetch(hub, tmp_path / "w")[0] > 300_000
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert server.starts(PLACE) == [0, 300_000, 300_000]


def test_what_a_killed_process_left_is_taken_up(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    listing = listing_of(hub)
    left = listing.files["unet/w.safetensors"].unfinished(tmp_path / "w")
    server.pause = 0.05
    program = (
        "import os, pathlib; from maquette.bases.hub import Hub, parse_hub_id\n"
        f"hub, path = Hub(os.environ), pathlib.Path({str(tmp_path / 'w')!r})\n"
        f"listing = hub.listing(parse_hub_id({REPOSITORY!r}))\n"
        "hub.fetch(listing, listing.files['unet/w.safetensors'], path, print)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | server.environment)
    deadline = time.monotonic() + 60
    while not left.exists() or left.stat().st_size < 200_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() < 0
    there, server.pause = left.stat().st_size, 0.0
    fetch(hub, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert server.starts(PLACE) == [0, there]
    assert 200_000 <= there < len(WEIGHTS)


def test_what_was_left_of_another_file_is_not_taken_up(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.cuts[PLACE] = [300_000, 0]
    with pytest.raises(Unobtainable):
        fetch(hub, tmp_path / "w")
    server.repositories[REPOSITORY] = {"unet/w.safetensors": WEIGHTS[::-1]}
    fetch(hub, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WEIGHTS[::-1]


def test_a_hub_that_knows_no_ranges_sends_the_whole_again(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts[PLACE] = [300_000, 500_000]
    fetch(hub, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    server.cuts[PLACE] = [300_000, 300_000]
    with pytest.raises(Unobtainable, match="broke off"):
        fetch(hub, tmp_path / "v")


def test_a_busy_hub_is_asked_again_for_a_while(server: HubServer, tmp_path: Path) -> None:
    hub = Hub(server.environment, waits=(0.0, 0.0))
    server.busy = 2
    fetch(hub, tmp_path / "w")
    server.busy = 3
    with pytest.raises(Unobtainable, match=r"broke off .* at 0 of 1048576 bytes \(it answers 503\); run the same"):
        fetch(hub, tmp_path / "v")
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    hub.close()


@pytest.mark.parametrize("sent", [WEIGHTS[:-1] + b"?", WEIGHTS + b"?"])
def test_a_damaged_file_is_thrown_away(server: HubServer, hub: Hub, tmp_path: Path, sent: bytes) -> None:
    server.altered["unet/w.safetensors"] = sent
    with pytest.raises(Unobtainable, match=r"unet/w.safetensors arrived damaged: expected 1048576 bytes with the hash"):
        fetch(hub, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []
    server.altered.clear()
    fetch(hub, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WEIGHTS


def test_a_damaged_small_file_is_noticed_too(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.altered["README.md"] = b"A card"
    with pytest.raises(Unobtainable, match=r"README.md arrived damaged"):
        fetch(hub, tmp_path / "w", "README.md")


def test_a_gated_repository_is_open_to_its_token_which_goes_nowhere_else(server: HubServer, tmp_path: Path) -> None:
    server.gated.add(REPOSITORY)
    for environment in ({}, {"HF_TOKEN": "hf_other"}):
        hub = Hub(server.environment | environment)
        with pytest.raises(Unobtainable, match=f"accept them on {server.address}/{REPOSITORY}, and set HF_TOKEN"):
            fetch(hub, tmp_path / "w")
        hub.close()
    server.asked.clear()
    hub = Hub(server.environment | {"HF_TOKEN": server.token})
    fetch(hub, tmp_path / "w")
    hub.close()
    assert [asked.token for asked in server.asked] == [f"Bearer {server.token}", f"Bearer {server.token}", None]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("studio/nothing", r"shows no repository 'studio/nothing': there is none, or it is private\. .* set HF_TOKEN"),
        ("studio/base@v9", "studio/base has no revision 'v9' on http"),
        ("studio/base/vae", r"studio/base has no vae at \w+, but unet/w.safetensors"),
        ("studio/base/unet/x.safetensors", r"has no unet/x.safetensors at \w+, but unet/w.safetensors"),
    ],
)
def test_what_is_not_there_is_told(hub: Hub, place: str, words: str) -> None:
    with pytest.raises(Unobtainable, match=words):
        listing_of(hub, place)


def test_a_file_that_is_gone_since_it_was_listed_is_told(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    listing = listing_of(hub)
    server.repositories[REPOSITORY] = {"README.md": CARD, "other.json": b"{}"}
    gone = Listing(REPOSITORY, server.commit(REPOSITORY), listing.files)
    with pytest.raises(Unobtainable, match=r"studio/base has no file 'unet/w.safetensors' at"):
        hub.fetch(gone, gone.files["unet/w.safetensors"], tmp_path / "w", lambda _: None)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "no-address"])
def test_a_hub_that_cannot_be_reached_is_told_with_ways_around_it(address: str) -> None:
    hub = Hub({"HF_ENDPOINT": address})
    with pytest.raises(Unobtainable, match=f"{address} can't be reached .*name it in HF_ENDPOINT"):
        listing_of(hub)
    hub.close()


@pytest.mark.parametrize("body", [b"<html>", b'{"sha": "1"}', b'{"sha": "1", "siblings": [{"rfilename": "a"}]}'])
def test_what_is_no_hub_is_told(hub: Hub, body: bytes) -> None:
    hub._http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body)))
    with pytest.raises(Unobtainable, match=r"does not answer as a model hub does .*; check HF_ENDPOINT"):
        listing_of(hub)


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)


def in_circles(request: httpx.Request) -> httpx.Response:
    return httpx.Response(302, headers={"Location": str(request.url)})


def garbled(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"not gzip"))


@pytest.mark.parametrize("answer", [in_circles, garbled])
def test_an_answer_that_cannot_be_followed_or_read_is_told(
    hub: Hub, answer: Callable[[httpx.Request], httpx.Response]
) -> None:
    hub._http = answering(answer)
    with pytest.raises(Unobtainable, match=r"can't be reached \(.*name it in HF_ENDPOINT"):
        listing_of(hub)


def test_a_file_that_is_sent_for_in_circles_is_not_asked_for_again(server: HubServer, tmp_path: Path) -> None:
    hub = Hub(server.environment, waits=(600.0,))
    listing = listing_of(hub)
    hub.close()
    hub._http = answering(in_circles)
    with pytest.raises(Unobtainable, match=r"can't be reached \(.*redirects"):
        hub.fetch(listing, listing.files["README.md"], tmp_path / "w", lambda _: None)


def test_a_token_is_shown_without_the_line_end_behind_it(server: HubServer, tmp_path: Path) -> None:
    server.gated.add(REPOSITORY)
    hub = Hub(server.environment | {"HF_TOKEN": f"{server.token}\n"})
    fetch(hub, tmp_path / "w")
    hub.close()


@pytest.mark.parametrize("token", ["hf_one\nhf_two", "hf_öne"])
def test_a_token_that_cannot_be_sent_is_refused_untold(token: str) -> None:
    with pytest.raises(Unobtainable, match="set it to the token alone") as refused:
        Hub({"HF_TOKEN": token})
    assert "hf_" not in str(refused.value)


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../../b"])
def test_a_path_out_of_the_folder_is_refused(server: HubServer, hub: Hub, path: str) -> None:
    server.repositories[REPOSITORY] = {path: b"x"}
    with pytest.raises(Unobtainable, match="is no path in a repository"):
        listing_of(hub)


def test_the_public_hub_is_asked_where_no_other_is_named() -> None:
    assert Hub({}).address == Hub({"HF_ENDPOINT": ""}).address == "https://huggingface.co"
