"""The client against servers that are away, that never were, and that are something else."""

import json
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import pytest

from maquette.client import patience
from maquette.client.client import Client
from maquette.client.records import Status
from maquette.core.errors import ErrorReason, InvalidRequest, MaquetteError
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType

URL = "http://maquette.test"
TASK_ID = "3c6f9d1e-1111-4222-8333-444455556666"
ASSET = {"assets_id": "9b1f", "upload_url": "http://uploads.test/9b1f.png?signature=abc"}

Answer = httpx.Response | type[httpx.TransportError]


class Server(httpx.BaseTransport):
    """Answers what the test put in `answers`, one a request; an error is a connection that breaks in this way."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        raise answer("gone")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.0)
    return Server()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def client(server: Server, said: list[str]) -> Generator[Client]:
    with Client(URL, "mq_key", on_wait=said.append, transport=server) as client:
        yield client


def envelope(status: int, reason: str, message: str) -> httpx.Response:
    return httpx.Response(status, json={"code": status, "reason": reason, "message": message, "metadata": {}})


def page(*task_ids: str, cursor: str) -> httpx.Response:
    rows = [
        {
            "task_name": "cat",
            "task_id": task_id,
            "task_type": "subject",
            "task_status": "UNHEARD_OF",
            "created_at": 1750000000,
            "models": [],
            "new_field": 1,
        }
        for task_id in task_ids
    ]
    return httpx.Response(200, json={"tasks": rows, "pagination": {"next_cursor": cursor}})


def empty() -> httpx.Response:
    return page(cursor="")


def train(client: Client) -> str:
    items = [DatasetItem("9b1f")]
    return client.create_training(
        TaskType.SUBJECT,
        name="cat",
        base_model="tiny",
        width=64,
        height=64,
        items=items,
        expert_setting=ExpertSetting(),
    )


def test_a_list_is_fetched_until_an_empty_page(client: Client, server: Server) -> None:
    server.answers = [page("a", "b", cursor="c_7"), page("c", cursor="c_8"), empty()]
    assert [task.task_id for task in client.tasks()] == ["a", "b", "c"]
    assert [request.url.params["pagination.cursor"] for request in server.seen] == ["", "c_7", "c_8"]


def test_a_status_that_the_client_does_not_know_is_unknown(client: Client, server: Server) -> None:
    server.answers = [page("a", cursor="c_7"), empty()]
    assert [task.task_status for task in client.tasks()] == [Status.UNKNOWN]


@pytest.mark.parametrize("away", [httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout, 502, 503, 504])
def test_reading_outlives_a_server_that_is_away(
    client: Client, server: Server, said: list[str], away: int | type[httpx.TransportError]
) -> None:
    problem = httpx.Response(away, text="<html>") if isinstance(away, int) else away
    server.answers = [empty(), problem, httpx.ConnectError, empty()]
    for _ in range(2):
        assert list(client.tasks()) == []
    assert len(server.seen) == 4
    (words,) = said
    assert words.startswith(f"waiting for {URL} (")


def test_each_time_away_is_told_once(client: Client, server: Server, said: list[str]) -> None:
    server.answers = [empty(), *[httpx.ConnectError] * 3, empty(), httpx.ConnectError, empty()]
    for _ in range(3):
        assert list(client.tasks()) == []
    assert len(said) == 2


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_only_begins_is_waited_for(client: Client, server: Server, said: list[str], status: int) -> None:
    server.answers = [httpx.Response(status), httpx.ReadError, empty()]
    assert list(client.tasks()) == []
    assert said == [f"waiting for {URL} (it answers {status})"]


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError]
)
def test_where_nothing_ever_answered_nobody_waits(
    client: Client, server: Server, said: list[str], error: type[httpx.TransportError]
) -> None:
    server.answers = [error, error, empty()]
    for number in (1, 2):
        with pytest.raises(MaquetteError, match=rf"nothing answers at {URL} \(gone\).*MAQUETTE_URL"):
            client.raw_task(TASK_ID)
        assert (len(server.seen), said) == (number, [])


def test_a_port_where_nobody_listens_is_an_error_at_once(said: list[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        with Client(url, "mq_key", on_wait=said.append) as client, pytest.raises(MaquetteError) as caught:
            client.raw_task(TASK_ID)
    assert f"nothing answers at {url} (" in caught.value.message
    assert said == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "ftp://maquette.test",
        "http://",
        "http://:8080",
        "http://127.0.0.1:abc",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://my host",
        "http://a..b",
        f"http://{'a' * 64}.test",
        "http://[::1",
        "http://user:password@maquette.test",
        "http://maquette.test/?key=1",
        "http://maquette.test\n",
    ],
)
def test_an_address_that_can_not_be_one_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^MAQUETTE_URL: "):
        Client(url, "mq_key")


@pytest.mark.parametrize("url", ["http://[::1]:8080", "https://a-b.example_1.test./under", "HTTP://ä.test", "http://h"])
def test_an_address_that_can_be_one_is_taken(url: str) -> None:
    Client(url, "mq_key")


@pytest.mark.parametrize("key", ["", "mq_ä", "mq_a\n", "mq a", "mq_\x7f"])
def test_a_key_that_no_header_carries_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^MAQUETTE_API_KEY: ") as caught:
        Client(URL, key)
    assert not key or key not in caught.value.message


@pytest.mark.parametrize("away", [httpx.ReadError, 502, 503, 504])
def test_a_training_whose_answer_was_lost_is_asked_for_again_under_the_same_key(
    client: Client, server: Server, away: int | type[httpx.TransportError]
) -> None:
    lost = httpx.Response(away) if isinstance(away, int) else away
    created = httpx.Response(200, json={"task_id": TASK_ID})
    server.answers = [empty(), lost, lost, created, created]
    assert list(client.tasks()) == []
    assert train(client) == TASK_ID
    train(client)
    _, *posts = server.seen
    first, again, last, another = (request.headers["Idempotency-Key"] for request in posts)
    assert first == again == last != another
    assert len(first) == 32
    assert posts[0].content == posts[2].content


@pytest.mark.parametrize("status", [400, 409, 422, 429, 500])
def test_a_training_that_was_refused_is_not_asked_for_again(client: Client, server: Server, status: int) -> None:
    server.answers = [envelope(status, "CONFLICT", "no")]
    with pytest.raises(MaquetteError, match="no"):
        train(client)
    assert len(server.seen) == 1


def test_an_upload_goes_on_after_lost_answers_and_shows_nobody_the_key(
    client: Client, server: Server, tmp_path: Path
) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"bytes")
    asset = httpx.Response(200, json=ASSET)
    server.answers = [asset, httpx.Response(200)]
    server.answers += [httpx.ReadError, asset, httpx.WriteError, httpx.Response(503), httpx.Response(200)]
    for _ in range(2):
        assert client.upload(picture) == "9b1f"
    asked, again, *sent = server.seen[2:]
    assert asked.headers["Idempotency-Key"] == again.headers["Idempotency-Key"]
    assert [(request.method, str(request.url), request.content) for request in sent] == [
        ("PUT", ASSET["upload_url"], b"bytes")
    ] * 3
    assert not any("authorization" in request.headers for request in sent)


def test_a_refused_picture_is_named(client: Client, server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "b.png"
    picture.write_text("no picture")
    server.answers = [httpx.Response(200, json=ASSET), envelope(400, "INVALID_IMAGE_FORMAT", "is no picture")]
    with pytest.raises(MaquetteError, match=r"b\.png: is no picture") as caught:
        client.upload(picture)
    assert caught.value.reason is ErrorReason.INVALID_IMAGE_FORMAT


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.RemoteProtocolError])
@pytest.mark.parametrize("url", ["http://uploads.test/a", "http://uploads.test:99999/a", "nonsense"])
def test_an_upload_address_that_leads_nowhere_is_an_error_at_once(
    client: Client, server: Server, tmp_path: Path, url: str, error: type[httpx.TransportError]
) -> None:
    (tmp_path / "cat.png").touch()
    server.answers = [httpx.Response(200, json=ASSET | {"upload_url": url}), error]
    with pytest.raises(MaquetteError, match=r"MAQUETTE_PUBLIC_URL|upload_url"):
        client.upload(tmp_path / "cat.png")


def test_an_error_envelope_becomes_its_error(client: Client, server: Server) -> None:
    server.answers = [envelope(404, "TASK_NOT_FOUND", "task not found")]
    with pytest.raises(MaquetteError, match="task not found") as caught:
        client.raw_task(TASK_ID)
    assert caught.value.reason is ErrorReason.TASK_NOT_FOUND


@pytest.mark.parametrize("body", [b"<html>proxy</html>", b'{"reason": "UNHEARD_OF", "message": "?"}', b"\xff"])
def test_an_answer_nobody_documented_is_still_words(client: Client, server: Server, body: bytes) -> None:
    server.answers = [httpx.Response(500, content=body)]
    with pytest.raises(MaquetteError, match="the server answered 500"):
        client.raw_task(TASK_ID)


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"[]", b'{"tasks": 1}', b"\xff", b""])
def test_another_service_is_told_from_ours(client: Client, server: Server, body: bytes) -> None:
    server.answers = [httpx.Response(200, content=body)]
    with pytest.raises(MaquetteError, match=rf"{URL} answers, but not as a Maquette server does.*MAQUETTE_URL"):
        list(client.tasks())


@pytest.mark.parametrize("answer", [httpx.ReadError, envelope(503, "SERVICE_UNAVAILABLE", "can't be reached")])
def test_a_server_that_stays_away_is_an_error_in_the_end(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", -1.0)
    server.answers = [empty(), answer]
    assert list(client.tasks()) == []
    with pytest.raises(MaquetteError, match="can't be reached"):
        client.raw_task(TASK_ID)


@pytest.mark.parametrize("task_id", ["../training", "", TASK_ID.upper(), f"{TASK_ID}/events", f"{TASK_ID}?a=b"])
@pytest.mark.parametrize(
    "ask",
    [
        Client.task,
        Client.raw_task,
        Client.cancel,
        lambda client, task_id: list(client.events(task_id)),
        lambda client, task_id: client.save_weights(task_id, Path("lora")),
    ],
)
def test_what_is_no_task_id_is_never_sent(client: Client, ask: Callable[[Client, str], object], task_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^task_id: "):
        ask(client, task_id)


def test_a_download_that_is_refused_leaves_no_file(client: Client, server: Server, tmp_path: Path) -> None:
    server.answers = [envelope(409, "CONFLICT", "the task is TRAINING and has no weights")]
    with pytest.raises(MaquetteError, match="no weights"):
        client.save_weights(TASK_ID, tmp_path / "lora.safetensors")
    assert list(tmp_path.iterdir()) == []


class Breaking(httpx.SyncByteStream):
    """A body that breaks off."""

    def __iter__(self) -> Generator[bytes]:
        yield b"wei"
        raise httpx.ReadError("gone")


def test_a_download_that_breaks_off_is_begun_again(client: Client, server: Server, tmp_path: Path) -> None:
    server.answers = [httpx.Response(200, stream=Breaking()), httpx.Response(200, content=b"weights" * 1000)]
    target = tmp_path / "lora.safetensors"
    client.save_weights(TASK_ID, target)
    assert target.read_bytes() == b"weights" * 1000
    assert list(tmp_path.iterdir()) == [target]


def test_cancelling_answers_the_status(client: Client, server: Server) -> None:
    server.answers = [httpx.Response(200, content=json.dumps({"task_id": TASK_ID, "task_status": "TRAINING"}))]
    assert client.cancel(TASK_ID).task_status is Status.TRAINING
