"""The service over HTTP, for Python programs and for the command line."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec
from msgspec import Struct

from maquette.client.records import Asset, EventPage, Task, TaskDetail, TaskPage
from maquette.core.errors import ErrorReason, InvalidRequest, MaquetteError
from maquette.core.files import CHUNK, FOR_THE_USER, atomic_file
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType, TrainingRequest

Record = TypeVar("Record")

TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
"""How long a server may be away before a call gives up: long enough for its restart."""
SUCCESS = 200
"""The one status of success, on every call."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0


class ErrorBody(Struct):
    """The error envelope."""

    reason: str
    message: str
    metadata: dict[str, str] = {}


class Client:
    """One tenant's view of a Maquette server.

    Calls that change nothing, and uploads (which may be repeated), are tried again for two minutes while the
    server can't be reached. Creating a task is not: whether it arrived can't be known.

    Args:
        url: the server's address, e.g. `http://127.0.0.1:8080`.
        api_key: as `maquette keys create` printed it.
    """

    def __init__(self, url: str, api_key: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest("MAQUETTE_URL", f"must begin with http:// or https://, got {url!r}")
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=TIMEOUT_SECONDS, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def upload(self, picture: Path) -> str:
        """Upload a picture and answer its asset id.

        Raises:
            MaquetteError: the server refused it, or could not be reached.
        """
        extension = picture.suffix.removeprefix(".")
        asset = self._call("POST", "/v3/assets/training_dataset", Asset, json={"file_extension": extension})
        data = picture.read_bytes()
        self._patiently(
            lambda: _checked(httpx.put(asset.upload_url, content=data, timeout=TIMEOUT_SECONDS, trust_env=False))
        )
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
    ) -> str:
        """Start a training task and answer its id.

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
        )
        body = msgspec.to_builtins(request)
        try:
            response = self._http.post(f"/v3/training/{task_type}", json=body)
        except httpx.TransportError as error:
            raise _unreachable(error) from error
        return msgspec.json.decode(_checked(response).content, type=dict[str, str])["task_id"]

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
        return self._call("GET", f"/v3/training/{task_id}", TaskDetail)

    def raw_task(self, task_id: str) -> dict[str, Any]:
        """The same as the server's own JSON object."""
        return self._call("GET", f"/v3/training/{task_id}", dict[str, Any])

    def events(self, task_id: str) -> Iterator[dict[str, Any]]:
        """A task's history, oldest first."""
        after = 0
        while True:
            query = {"after": str(after)}
            page = self._call("GET", f"/v3/training/{task_id}/events", EventPage, params=query)
            if not page.events:
                return
            yield from page.events
            after = page.events[-1]["number"]

    def cancel(self, task_id: str) -> None:
        """Ask for a task to be cancelled; it is when its status says so."""
        self._call("POST", f"/v3/training/{task_id}/cancel", dict[str, Any])

    def follow(self, task_id: str, *, interval: float = 0.5) -> Iterator[TaskDetail]:
        """The task again and again until it has ended; outlives a server that is away for a while."""
        while True:
            task = self.task(task_id)
            yield task
            if task.ended:
                return
            time.sleep(interval)

    def save_weights(self, task_id: str, target: Path, progress: Callable[[int], object] = lambda _: None) -> None:
        """Download a finished task's LoRA into a file that appears whole.

        Args:
            progress: called with the number of bytes of each chunk.

        Raises:
            MaquetteError: the task has no model, or no answer.
        """

        def download() -> None:
            with (
                self._http.stream("GET", f"/v3/training/{task_id}/weights") as response,
                atomic_file(target, FOR_THE_USER) as file,
            ):
                if response.status_code != SUCCESS:
                    response.read()
                for chunk in _checked(response).iter_bytes(CHUNK):
                    file.write(chunk)
                    progress(len(chunk))

        self._patiently(download)

    def _call(
        self,
        method: str,
        path: str,
        kind: type[Record],
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, object] | None = None,
    ) -> Record:
        response = self._patiently(lambda: _checked(self._http.request(method, path, params=params, json=json)))
        return msgspec.json.decode(response.content, type=kind)

    def _patiently(self, call: Callable[[], Record]) -> Record:
        """Repeat a call that could not reach the server, with growing pauses, until patience ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause = FIRST_PAUSE
        while True:
            try:
                return call()
            except httpx.TransportError as error:
                if time.monotonic() + pause > deadline:
                    raise _unreachable(error) from error
            except MaquetteError as error:
                if error.reason is not ErrorReason.SERVICE_UNAVAILABLE or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _checked(response: httpx.Response) -> httpx.Response:
    """Pass a success on; turn an error envelope into its error."""
    if response.status_code == SUCCESS:
        return response
    try:
        body = msgspec.json.decode(response.content, type=ErrorBody)
        reason = ErrorReason(body.reason)
    except (msgspec.MsgspecError, ValueError):
        raise MaquetteError(
            ErrorReason.INTERNAL_ERROR, f"the server answered {response.status_code}: {response.text[:200]}"
        ) from None
    raise MaquetteError(reason, body.message, body.metadata)


def _unreachable(error: httpx.TransportError) -> MaquetteError:
    return MaquetteError(ErrorReason.SERVICE_UNAVAILABLE, f"the server can't be reached: {error}")
