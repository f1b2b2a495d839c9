"""The service over HTTP, for Python programs and for the command line."""

import base64
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from maquette.client.address import origin, server_address, web_address
from maquette.client.patience import Patience
from maquette.client.records import (
    Asset,
    CancelAnswer,
    Checkpoint,
    CheckpointPage,
    CreatedTask,
    DrawnPicture,
    EventPage,
    ImageTask,
    ListedModel,
    ModelPage,
    Task,
    TaskDetail,
    TaskPage,
)
from maquette.core.errors import ErrorBody, ErrorReason, InvalidRequest, MaquetteError, about_file
from maquette.core.files import CHUNK, FOR_THE_USER, atomic_file
from maquette.core.ids import is_task_id
from maquette.core.image_specs import ImageExtra, ImageToImage, ImageToImageBody, TextToImage, TextToImageBody
from maquette.core.metrics import MAX_POINTS, Curve
from maquette.core.specs import Arguments, DatasetItem, ExpertSetting, TaskType, TrainingRequest, component
from maquette.core.weights import LoraLayout

Record = TypeVar("Record")

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
SUCCESS = 200
"""The one status of success, on every call."""
PLAIN = ImageExtra()
"""PNG files, and nobody is told."""
API_KEY = re.compile(r"[!-~]+")
"""What a header can carry, without spaces."""
CHECK_URL = "is a server running there, and is MAQUETTE_URL right?"
CHECK_PUBLIC_URL = "the server wants pictures sent there: is its MAQUETTE_PUBLIC_URL right?"
CHECK_IMAGE_URL = "the server says that its pictures are there: is its MAQUETTE_PUBLIC_URL right?"


class Client:
    """One tenant's view of a Maquette server.

    Every call is tried again for two minutes while a server is away that was there before. What creates something
    carries a key of its own, by which the server knows it again, so that it is created once.

    Args:
        url: the server's address, e.g. `http://127.0.0.1:8080`.
        api_key: as `maquette keys create` printed it.
        on_wait: told in words when a server that is away is waited for.
        transport: what carries the requests, in place of httpx's own.

    Raises:
        InvalidRequest: the address or the key can't be one.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        on_wait: Callable[[str], object] = lambda _: None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = server_address(url)
        if not API_KEY.fullmatch(api_key):
            raise InvalidRequest(
                "MAQUETTE_API_KEY", "holds what no key holds; copy it anew, as `maquette keys create` printed it"
            )
        self._patience = Patience(on_wait)
        common: dict[str, Any] = {
            "timeout": TIMEOUT,
            "trust_env": False,
            "transport": transport,
            "event_hooks": {"response": [self._patience.answered]},
        }
        self._http = httpx.Client(base_url=self._url, headers={"Authorization": f"Bearer {api_key}"}, **common)
        # A picture's address is its permission and may be on another host, which the key is none of the business of.
        self._pictures = httpx.Client(**common)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        self._pictures.close()

    def upload(self, picture: Path) -> str:
        """Upload a picture and answer its asset id.

        Raises:
            MaquetteError: the server refused it, in words that name the file, or could not be reached.
        """
        data = picture.read_bytes()
        asset = self._create("/v3/assets/training_dataset", Asset, {"file_extension": picture.suffix.removeprefix(".")})
        target = web_address("upload_url", asset.upload_url)
        answer = self._patience.call(target, lambda: self._pictures.put(target, content=data), advice=CHECK_PUBLIC_URL)
        with about_file(picture):
            _checked(answer)
        return asset.assets_id

    def create_training(
        self,
        task_type: TaskType,
        *,
        name: str,
        base_model: str,
        width: int,
        height: int,
        items: Sequence[DatasetItem],
        expert_setting: ExpertSetting,
        components: Sequence[Arguments] = (),
    ) -> str:
        """Start a training task and answer its id.

        Args:
            task_type: what the pictures have in common.
            name: what to call the task.
            base_model: one of the server's.
            width: pixels that pictures are cropped and resized to.
            height: likewise.
            items: the pictures, by the ids that `upload` answered.
            expert_setting: how to train; the server fills in what is left open.
            components: how to prepare the pictures, e.g. `[Resize(buckets=True), FaceCropRegion(ratio=1.5)]`.

        Raises:
            MaquetteError: the server refused it, or could not be reached.
        """
        request = TrainingRequest(
            name=name,
            base_model=base_model,
            width=width,
            height=height,
            image_dataset_items=list(items),
            expert_setting=expert_setting,
            components=[component(arguments) for arguments in components],
        )
        return self._create(f"/v3/training/{task_type}", CreatedTask, msgspec.to_builtins(request)).task_id

    def tasks(self, task_type: TaskType | None = None) -> Iterator[Task]:
        """All tasks, newest first, fetched page by page."""
        cursor = ""
        while True:
            query: dict[str, str] = {"pagination.limit": "100", "pagination.cursor": cursor}
            if task_type:
                query["task_type"] = task_type
            page = self._call("GET", "/v3/training", TaskPage, params=query)
            if not page.tasks:
                return
            yield from page.tasks
            cursor = page.pagination.next_cursor

    def task(self, task_id: str) -> TaskDetail:
        """One task with everything the server tells of it.

        Raises:
            MaquetteError: no such task, or no answer.
        """
        return self._call("GET", _task_path(task_id), TaskDetail)

    def raw_task(self, task_id: str) -> dict[str, Any]:
        """The same as the server's own JSON object."""
        return self._call("GET", _task_path(task_id), dict[str, Any])

    def events(self, task_id: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """A task's history, oldest first, or what of it follows the event of this number."""
        while True:
            query = {"after": str(after)}
            page = self._call("GET", f"{_task_path(task_id)}/events", EventPage, params=query)
            if not page.events:
                return
            yield from page.events
            after = page.events[-1]["number"]

    def metrics(self, task_id: str, *, points: int = MAX_POINTS) -> Curve:
        """How a task's training goes, thinned to at most so many points.

        Raises:
            MaquetteError: no such task, more points than the server gives, or no answer.
        """
        return self._call("GET", f"{_task_path(task_id)}/metrics", Curve, params={"points": points})

    def cancel(self, task_id: str) -> CancelAnswer:
        """Ask for a task to be cancelled; it is when its status says so."""
        return self._call("POST", f"{_task_path(task_id)}/cancel", CancelAnswer)

    def follow(self, task_id: str, *, interval: float = 0.5) -> Iterator[TaskDetail]:
        """The task again and again until it has ended; outlives a server that is away for a while."""
        while True:
            task = self.task(task_id)
            yield task
            if task.ended:
                return
            time.sleep(interval)

    def follow_model(self, task_id: str, *, interval: float = 0.5) -> Iterator[TaskDetail]:
        """The task again and again until its LoRA draws, was rejected, or will never be; else as `follow`."""
        while True:
            task = self.task(task_id)
            yield task
            if task.settled:
                return
            time.sleep(interval)

    def save_weights(self, task_id: str, target: Path, *, layout: LoraLayout = LoraLayout.DIFFUSERS) -> None:
        """Download a finished task's LoRA into a file that appears whole.

        Raises:
            MaquetteError: the task has no model, an earlier version trained it in another layout alone, or no answer.
        """
        self._save(f"{_task_path(task_id)}/weights?layout={layout}", target)

    def checkpoints(self, task_id: str) -> list[Checkpoint]:
        """The checkpoints of a task that are kept, oldest first.

        Raises:
            MaquetteError: no such task, or no answer.
        """
        return self._call("GET", f"{_task_path(task_id)}/checkpoints", CheckpointPage).checkpoints

    def save_checkpoint(self, task_id: str, step: int, target: Path) -> None:
        """Download a checkpoint's LoRA, in diffusers layout, into a file that appears whole.

        Raises:
            MaquetteError: no checkpoint of this step is kept, or no answer.
        """
        self._save(f"{_task_path(task_id)}/checkpoints/{step}/weights", target)

    def save_sample(self, task_id: str, step: int, index: int, target: Path) -> None:
        """Download a PNG that was drawn with a checkpoint, counted from 0, into a file that appears whole.

        Raises:
            MaquetteError: no checkpoint of this step is kept, it has no such picture, or no answer.
        """
        self._save(f"{_task_path(task_id)}/checkpoints/{step}/samples/{index}", target)

    def models(self, *, visibility: str = "", kind: str = "") -> Iterator[ListedModel]:
        """Models that can be drawn with, one's own newest first, fetched page by page.

        Args:
            visibility: `private` are one's own, `public` the operator's; both where it is empty.
            kind: `lora`, `checkpoint`, `vae` or `textualinversion`; all where it is empty.
        """
        query = {"pagination.limit": "100", "filter.visibility": visibility, "filter.types": kind}
        query = {name: value for name, value in query.items() if value}
        cursor = ""
        while True:
            page = self._call("GET", "/v3/model", ModelPage, params=query | {"pagination.cursor": cursor})
            if not page.models:
                return
            yield from page.models
            cursor = page.pagination.next_cursor

    def text_to_image(self, request: TextToImage, extra: ImageExtra = PLAIN) -> str:
        """Ask for pictures drawn from words; answers the image task's id.

        Raises:
            MaquetteError: the server refused it, or could not be reached.
        """
        body = TextToImageBody(request=request, extra=extra)
        return self._create("/v3/async/txt2img", CreatedTask, msgspec.to_builtins(body)).task_id

    def image_to_image(self, request: ImageToImage, extra: ImageExtra = PLAIN) -> str:
        """Ask for pictures drawn from words and a picture (`as_base64` reads one); answers the image task's id.

        Raises:
            MaquetteError: the server refused it, or could not be reached.
        """
        body = ImageToImageBody(request=request, extra=extra)
        return self._create("/v3/async/img2img", CreatedTask, msgspec.to_builtins(body)).task_id

    def image_task(self, task_id: str) -> ImageTask:
        """An image task, with its pictures once they are drawn.

        Raises:
            MaquetteError: no such task, or no answer.
        """
        return self._call("GET", "/v3/async/task-result", ImageTask, params={"task_id": task_id})

    def follow_image(self, task_id: str, *, interval: float = 0.2) -> Iterator[ImageTask]:
        """The image task again and again until it has ended; outlives a server that is away for a while."""
        while True:
            found = self.image_task(task_id)
            yield found
            if found.ended:
                return
            time.sleep(interval)

    def save_picture(self, picture: DrawnPicture, target: Path) -> None:
        """Download a drawn picture into a file that appears whole.

        Raises:
            MaquetteError: its address is good no longer, or no answer.
        """
        source = web_address("image_url", picture.image_url)
        advice = CHECK_IMAGE_URL
        _checked(self._patience.call(source, lambda: _download(self._pictures, source, target), advice=advice))

    def _create(self, path: str, kind: type[Record], body: Mapping[str, object]) -> Record:
        """Create something once, however often the answer is lost on its way here."""
        return self._call("POST", path, kind, json=body, headers={"Idempotency-Key": uuid.uuid4().hex})

    def _save(self, path: str, target: Path) -> None:
        _checked(self._patience.call(self._url, lambda: _download(self._http, path, target), advice=CHECK_URL))

    def _call(self, method: str, path: str, kind: type[Record], **request: Any) -> Record:
        response = self._patience.call(self._url, lambda: self._http.request(method, path, **request), advice=CHECK_URL)
        try:
            return msgspec.json.decode(_checked(response).content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise MaquetteError(
                ErrorReason.API_NOT_FOUND,
                f"{origin(self._url)} answers, but not as a Maquette server does; is MAQUETTE_URL right?",
            ) from None


def as_base64(picture: Path) -> str:
    """A picture's bytes as a request carries them."""
    return base64.b64encode(picture.read_bytes()).decode()


def _download(http: httpx.Client, source: httpx.URL | str, target: Path) -> httpx.Response:
    """Write what an address holds into a file that appears whole, unless the answer is an error."""
    with http.stream("GET", source) as response:
        if response.status_code != SUCCESS:
            response.read()
            return response
        with atomic_file(target, FOR_THE_USER) as file:
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
    return response


def _task_path(task_id: str) -> str:
    if not is_task_id(task_id):
        raise InvalidRequest("task_id", f"must be an id as `maquette list` shows it, got {task_id!r}")
    return f"/v3/training/{task_id}"


def _checked(response: httpx.Response) -> httpx.Response:
    """Pass a success on; turn an error envelope into its error."""
    if response.status_code == SUCCESS:
        return response
    try:
        body = msgspec.json.decode(response.content, type=ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise MaquetteError(
            ErrorReason.INTERNAL_ERROR, f"the server answered {response.status_code}: {response.text[:200]}"
        ) from None
    raise MaquetteError(body.reason, body.message, body.metadata)
