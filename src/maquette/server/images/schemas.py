"""The wire forms of drawing."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from maquette.core.image_specs import ImageToImageBody, TextToImageBody
from maquette.server.bodies import T, WireBody

EVENT = "ASYNC_TASK_RESULT"


class DrawingBody(WireBody[T]):
    """Takes what clients are known to send for a picture."""

    @classmethod
    def tidy(cls, body: dict[str, Any]) -> None:
        """Published requests hold empty LoRAs, embeddings and units, and webhooks without an address."""
        request = body.get("request")
        if isinstance(request, dict):
            for field in ("loras", "embeddings", "ip_adapters"):
                _drop_empty(request, field)
            _drop_empty(request.get("controlnet"), "units")
        extra = body.get("extra")
        if isinstance(extra, dict) and _says_nothing(extra.get("webhook")):
            extra.pop("webhook", None)
        storage = extra.get("custom_storage") if isinstance(extra, dict) else None
        if isinstance(storage, dict) and _names_no_place(storage.get("aws_s3")):
            storage.pop("aws_s3", None)


def _drop_empty(holder: Any, field: str) -> None:
    if isinstance(holder, dict) and isinstance(holder.get(field), list):
        holder[field] = [one for one in holder[field] if one not in ({}, None)]


def _says_nothing(webhook: Any) -> bool:
    """Whether a webhook has neither an address nor a test to try one."""
    if not isinstance(webhook, dict) or "url" in webhook:
        return False
    test = webhook.get("test_mode")
    return test is None or (isinstance(test, dict) and test.get("enabled") in (None, False, "false"))


def _names_no_place(aws_s3: Any) -> bool:
    """Whether nothing is left of a bucket that is all empty strings but how pictures lie in it."""
    return isinstance(aws_s3, dict) and aws_s3.keys() <= {"save_to_path_directly"}


class TextToImageWire(DrawingBody[TextToImageBody]):
    """The body of `POST /v3/async/txt2img`."""


class ImageToImageWire(DrawingBody[ImageToImageBody]):
    """The body of `POST /v3/async/img2img`."""


class CreatedImageTask(Struct, frozen=True):
    """Answer to a drawing call."""

    task_id: str


class DebugInfo(Struct, frozen=True):
    """When a task was sent, begun and ended, in Unix milliseconds, as strings.

    Attributes:
        request_info: where the task differs from what was asked for, in words; "" where it does not.
    """

    request_info: str
    submit_time_ms: str
    execute_time_ms: str
    complete_time_ms: str


class WebhookEcho(Struct, frozen=True):
    """Whom the event was sent to."""

    url: str


class ResultExtra(Struct, frozen=True, kw_only=True):
    """The seed of the first picture, as a string, and what is known of the task's course.

    `debug_info` is there once all three instants are; `webhook` in the event alone.
    """

    seed: str
    enable_nsfw_detection: bool = False
    debug_info: DebugInfo | UnsetType = UNSET
    webhook: WebhookEcho | UnsetType = UNSET


class TaskState(Struct, frozen=True):
    """Where a task stands; `eta` in seconds, `reason` only where it failed."""

    task_id: str
    task_type: str
    status: str
    reason: str
    eta: int
    progress_percent: int


class ImageEntry(Struct, frozen=True):
    """A drawn picture: its address, the seconds for which that is good, as a string, and its format."""

    image_url: str
    image_url_ttl: str
    image_type: str
    nsfw_detection_result: None = None


class TaskResult(Struct, frozen=True):
    """The published answer about one image task."""

    extra: ResultExtra
    task: TaskState
    images: list[ImageEntry]
    videos: list[dict[str, Any]]
    audios: list[dict[str, Any]]


class TaskEvent(Struct, frozen=True):
    """What a webhook is told."""

    event_type: str
    payload: TaskResult
