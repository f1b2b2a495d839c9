"""The client against servers that are away, that never were, and that are something else."""

import json
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import msgspec
import pytest

from maquette.client import patience
from maquette.client.client import Client, as_base64
from maquette.client.records import DrawingStatus, DrawnPicture, Status
from maquette.core.errors import ErrorReason, InvalidRequest, MaquetteError
from maquette.core.image_specs import ImageExtra, ImageToImage, LoraChoice, TextToImage
from maquette.core.metrics import MAX_POINTS
from maquette.core.picture_format import PictureFormat
from maquette.core.specs import Arguments, DatasetItem, ExpertSetting, FaceCropRegion, Resize, TaskType
from maquette.core.weights import LoraLayout

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


def train(client: Client, *components: Arguments) -> str:
    items = [DatasetItem("9b1f")]
    return client.create_training(
        TaskType.SUBJECT,
        name="cat",
        base_model="tiny",
        width=64,
        height=64,
        items=items,
        expert_setting=ExpertSetting(),
        components=components,
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


def test_a_training_is_asked_for_with_components_by_their_types(client: Client, server: Server) -> None:
    server.answers = [httpx.Response(200, json={"task_id": TASK_ID}) for _ in range(2)]
    train(client, Resize(buckets=True), FaceCropRegion(ratio=1.5))
    train(client)
    asked, plain = (json.loads(request.content) for request in server.seen)
    assert asked["components"] == [
        {"name": "resize", "args": [{"name": "buckets", "value": True}]},
        {"name": "face_crop_region", "args": [{"name": "ratio", "value": 1.5}]},
    ]
    assert plain["components"] == []


def test_a_history_goes_on_after_what_is_known(client: Client, server: Server) -> None:
    events = [{"number": number, "kind": "phase", "created_at": 1.0, "data": {}} for number in (8, 9)]
    server.answers = [httpx.Response(200, json={"events": page}) for page in (events, [])]
    assert list(client.events(TASK_ID, after=7)) == events
    assert [request.url.params["after"] for request in server.seen] == ["7", "9"]


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
        Client.metrics,
        lambda client, task_id: client.save_weights(task_id, Path("lora")),
        Client.checkpoints,
        lambda client, task_id: client.save_checkpoint(task_id, 5, Path("lora")),
        lambda client, task_id: client.save_sample(task_id, 5, 0, Path("sample")),
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


def test_a_layout_is_asked_for_by_its_name(client: Client, server: Server, tmp_path: Path) -> None:
    server.answers = [httpx.Response(200, content=b"weights") for _ in range(2)]
    client.save_weights(TASK_ID, tmp_path / "lora.safetensors", layout=LoraLayout.KOHYA)
    client.save_weights(TASK_ID, tmp_path / "lora.safetensors")
    assert [request.url.params["layout"] for request in server.seen] == ["kohya", "diffusers"]


def test_a_download_that_breaks_off_is_begun_again(client: Client, server: Server, tmp_path: Path) -> None:
    server.answers = [httpx.Response(200, stream=Breaking()), httpx.Response(200, content=b"weights" * 1000)]
    target = tmp_path / "lora.safetensors"
    client.save_weights(TASK_ID, target)
    assert target.read_bytes() == b"weights" * 1000
    assert list(tmp_path.iterdir()) == [target]


def test_a_curve_is_asked_for_in_so_many_points(client: Client, server: Server) -> None:
    curve = json.loads((Path(__file__).parents[2] / "golden" / "metrics.json").read_bytes())
    server.answers = [httpx.Response(200, json=curve) for _ in range(2)]
    found = client.metrics(TASK_ID, points=2)
    assert msgspec.to_builtins(found) == curve
    client.metrics(TASK_ID)
    assert [str(request.url) for request in server.seen] == [
        f"{URL}/v3/training/{TASK_ID}/metrics?points={points}" for points in (2, MAX_POINTS)
    ]


def test_cancelling_answers_the_status(client: Client, server: Server) -> None:
    server.answers = [httpx.Response(200, content=json.dumps({"task_id": TASK_ID, "task_status": "TRAINING"}))]
    assert client.cancel(TASK_ID).task_status is Status.TRAINING


PICTURE = {"image_url": "http://pictures.test/images/a.png?signature=abc", "image_type": "png", "image_url_ttl": "3600"}
DRAWING = TextToImage(model_name="tiny", prompt="a cat", loras=[LoraChoice(model_name="model_1", strength=0.5)])


def drawing(status: str, *pictures: dict[str, str], reason: str = "") -> httpx.Response:
    task = {"task_id": TASK_ID, "task_type": "TXT_TO_IMG", "status": status, "reason": reason, "eta": 0}
    return httpx.Response(
        200,
        json={
            "extra": {"seed": "42", "enable_nsfw_detection": False},
            "task": task | {"progress_percent": 0},
            "images": list(pictures),
            "videos": [],
        },
    )


def detail(status: str, model_status: str = "", verdict: str = "pending") -> httpx.Response:
    models = [{"model_name": "model_1.safetensors", "model_status": model_status}] if model_status else []
    judgement = {"model": {"verdict": verdict, "message": "it changes nothing"}} if model_status else {}
    return httpx.Response(
        200,
        json={
            "task_name": "cat",
            "task_id": TASK_ID,
            "task_type": "subject",
            "task_status": status,
            "created_at": 1750000000,
            "models": models,
            "reason": "finished",
            "message": "",
            "step": 5,
            "total_steps": 5,
            "eta_seconds": 0,
            "settings": {},
            "pictures": [],
        }
        | judgement,
    )


def test_pictures_are_asked_for_as_published(client: Client, server: Server, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"bytes")
    server.answers = [httpx.Response(200, json={"task_id": TASK_ID}) for _ in range(2)]
    assert client.text_to_image(DRAWING, ImageExtra(response_image_type=PictureFormat.JPEG)) == TASK_ID
    original = ImageToImage(model_name="tiny", prompt="a cat", image_base64=as_base64(tmp_path / "cat.png"))
    assert client.image_to_image(original) == TASK_ID
    text, image = ((request.method, request.url.path, json.loads(request.content)) for request in server.seen)
    assert text[:2] == ("POST", "/v3/async/txt2img")
    assert text[2]["extra"]["response_image_type"] == "jpeg"
    assert text[2]["request"]["loras"] == [{"model_name": "model_1", "strength": 0.5}]
    assert "sd_vae" not in text[2]["request"]
    assert image[:2] == ("POST", "/v3/async/img2img")
    assert image[2]["request"]["image_base64"] == "Ynl0ZXM="
    keys = {request.headers["Idempotency-Key"] for request in server.seen}
    assert len(keys) == 2


def test_an_image_task_is_followed_to_its_end(client: Client, server: Server) -> None:
    statuses = ["TASK_STATUS_QUEUED", "UNHEARD_OF", "TASK_STATUS_PROCESSING", "TASK_STATUS_SUCCEED"]
    server.answers = [*map(drawing, statuses[:-1]), drawing(statuses[-1], PICTURE)]
    seen = list(client.follow_image(TASK_ID, interval=0))
    assert [found.task.status for found in seen] == [
        DrawingStatus.QUEUED,
        DrawingStatus.UNKNOWN,
        DrawingStatus.PROCESSING,
        DrawingStatus.SUCCEED,
    ]
    assert seen[-1].extra.seed == "42"
    assert [picture.image_type for picture in seen[-1].images] == ["png"]
    assert all(request.url.params["task_id"] == TASK_ID for request in server.seen)


def test_an_image_task_that_failed_says_why(client: Client, server: Server) -> None:
    server.answers = [drawing("TASK_STATUS_FAILED", reason="The device ran out of memory.")]
    (found,) = client.follow_image(TASK_ID)
    assert (found.task.status, found.task.reason) == (DrawingStatus.FAILED, "The device ran out of memory.")


def test_a_picture_is_fetched_without_the_key_and_appears_whole(client: Client, server: Server, tmp_path: Path) -> None:
    server.answers = [drawing("TASK_STATUS_SUCCEED", PICTURE)]
    (picture,) = client.image_task(TASK_ID).images
    server.answers = [httpx.Response(200, stream=Breaking()), httpx.Response(503), httpx.Response(200, content=b"png")]
    client.save_picture(picture, tmp_path / "cat.png")
    assert (tmp_path / "cat.png").read_bytes() == b"png"
    _, *fetches = server.seen
    assert {str(request.url) for request in fetches} == {PICTURE["image_url"]}
    assert not any("authorization" in request.headers for request in fetches)


@pytest.mark.parametrize("url", ["http://pictures.test/a", "nonsense"])
def test_a_picture_that_can_not_be_fetched_leaves_no_file(
    client: Client, server: Server, tmp_path: Path, url: str
) -> None:
    server.answers = [envelope(403, "IMAGE_URL_EXPIRED", "image_url: the address expired")]
    with pytest.raises(MaquetteError, match="image_url"):
        client.save_picture(DrawnPicture(url, "png"), tmp_path / "cat.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "last", [detail("SUCCESS", "SERVING", "passed"), detail("SUCCESS", "DEPLOYING", "rejected"), detail("FAILED")]
)
def test_a_model_is_followed_until_it_draws_or_never_will(client: Client, server: Server, last: httpx.Response) -> None:
    server.answers = [detail("TRAINING"), detail("SUCCESS", "DEPLOYING"), last]
    *before, end = client.follow_model(TASK_ID, interval=0)
    assert [task.settled for task in before] == [False, False]
    assert (end.settled, end.served, end.rejected) == (
        True,
        b"SERVING" in last.content,
        b"rejected" in last.content,
    )


def test_models_are_fetched_until_an_empty_page(client: Client, server: Server) -> None:
    model = {
        "id": 1,
        "name": "cat",
        "sd_name": "model_1.safetensors",
        "sd_name_in_api": "model_1",
        "type": {"name": "lora", "display_name": "LORA"},
        "status": 1,
        "base_model": "SD 1.5",
        "source": "training",
    }
    pages = [([model, model], "c_100"), ([model], "c_200"), ([], "")]
    server.answers = [
        httpx.Response(200, json={"models": models, "pagination": {"next_cursor": cursor}}) for models, cursor in pages
    ]
    found = list(client.models(visibility="private", kind="lora"))
    assert [(one.sd_name_in_api, one.type.name) for one in found] == [("model_1", "lora")] * 3
    asked = [dict(request.url.params) for request in server.seen]
    assert [query["pagination.cursor"] for query in asked] == ["", "c_100", "c_200"]
    assert asked[0]["filter.visibility"] == "private"
    assert asked[0]["filter.types"] == "lora"
    server.answers = [httpx.Response(200, json={"models": [], "pagination": {"next_cursor": ""}})]
    assert list(client.models()) == []
    assert not any(name.startswith("filter") for name in server.seen[-1].url.params)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_says_when_to_come_back_is_asked_again_then(
    client: Client, server: Server, said: list[str], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    after = ["3", "99999", "Wed, 21 Oct 2026 07:28:00 GMT"]
    server.answers = [httpx.Response(status, headers={"Retry-After": words}) for words in after]
    server.answers.append(httpx.Response(200, json={"task_id": TASK_ID}))
    assert train(client) == TASK_ID
    assert slept == [3.0, patience.LONGEST_ASKED, 0.0]
    assert said == [f"waiting for {URL} (it answers {status})"]
    assert len({request.headers["Idempotency-Key"] for request in server.seen}) == 1
