"""Errors that reach a user: a stable reason, words that name the field, the limit and the fix.

The reasons and their HTTP statuses are those of the published API where it has one, and ours beside them. Server,
client and command line share this one list.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from msgspec import Struct


class ErrorReason(StrEnum):
    """Machine-readable name of an error, the `reason` of the error envelope."""

    INVALID_REQUEST_BODY = "INVALID_REQUEST_BODY"
    IMAGE_FILE_EXCEEDS_MAX_SIZE = "IMAGE_FILE_EXCEEDS_MAX_SIZE"
    IMAGE_EXCEEDS_MAX_RESOLUTION = "IMAGE_EXCEEDS_MAX_RESOLUTION"
    INVALID_IMAGE_SIZE = "INVALID_IMAGE_SIZE"
    INVALID_IMAGE_FORMAT = "INVALID_IMAGE_FORMAT"
    INVALID_CUSTOM_OUTPUT_PATH = "INVALID_CUSTOM_OUTPUT_PATH"
    INVALID_API_KEY = "INVALID_API_KEY"
    UPLOAD_URL_EXPIRED = "UPLOAD_URL_EXPIRED"
    UPLOAD_URL_INVALID = "UPLOAD_URL_INVALID"
    IMAGE_URL_EXPIRED = "IMAGE_URL_EXPIRED"
    IMAGE_URL_INVALID = "IMAGE_URL_INVALID"
    MODEL_URL_EXPIRED = "MODEL_URL_EXPIRED"
    MODEL_URL_INVALID = "MODEL_URL_INVALID"
    FEATURE_NOT_ALLOWED = "FEATURE_NOT_ALLOWED"
    API_NOT_FOUND = "API_NOT_FOUND"
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    CHECKPOINT_NOT_FOUND = "CHECKPOINT_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    CONFLICT = "CONFLICT"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    CREATE_TASK_FAILED = "CREATE_TASK_FAILED"
    GET_RESULT_FAILED = "GET_RESULT_FAILED"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"


HTTP_STATUS: Mapping[ErrorReason, int] = {
    ErrorReason.INVALID_REQUEST_BODY: 400,
    ErrorReason.IMAGE_FILE_EXCEEDS_MAX_SIZE: 400,
    ErrorReason.IMAGE_EXCEEDS_MAX_RESOLUTION: 400,
    ErrorReason.INVALID_IMAGE_SIZE: 400,
    ErrorReason.INVALID_IMAGE_FORMAT: 400,
    ErrorReason.INVALID_CUSTOM_OUTPUT_PATH: 400,
    ErrorReason.INVALID_API_KEY: 403,
    ErrorReason.UPLOAD_URL_EXPIRED: 403,
    ErrorReason.UPLOAD_URL_INVALID: 403,
    ErrorReason.IMAGE_URL_EXPIRED: 403,
    ErrorReason.IMAGE_URL_INVALID: 403,
    ErrorReason.MODEL_URL_EXPIRED: 403,
    ErrorReason.MODEL_URL_INVALID: 403,
    ErrorReason.FEATURE_NOT_ALLOWED: 403,
    ErrorReason.API_NOT_FOUND: 404,
    ErrorReason.TASK_NOT_FOUND: 404,
    ErrorReason.IMAGE_NOT_FOUND: 404,
    ErrorReason.MODEL_NOT_FOUND: 404,
    ErrorReason.CHECKPOINT_NOT_FOUND: 404,
    ErrorReason.METHOD_NOT_ALLOWED: 405,
    ErrorReason.CONFLICT: 409,
    ErrorReason.IDEMPOTENCY_KEY_REUSED: 422,
    ErrorReason.RATE_LIMIT_EXCEEDED: 429,
    ErrorReason.CREATE_TASK_FAILED: 500,
    ErrorReason.GET_RESULT_FAILED: 500,
    ErrorReason.SERVICE_UNAVAILABLE: 503,
    ErrorReason.INTERNAL_ERROR: 500,
}


class ErrorBody(Struct, frozen=True):
    """The envelope: what every error is answered with.

    Attributes:
        code: the HTTP status.
        reason: machine-readable name, stable.
        message: human words.
        metadata: further facts as strings, usually empty.
    """

    code: int
    reason: ErrorReason
    message: str
    metadata: dict[str, str]


class MaquetteError(Exception):
    """An error meant for a user.

    Attributes:
        reason: the stable machine name.
        message: human words; names the field, the limit and the fix where there is one.
        metadata: further facts as strings, usually empty.
    """

    def __init__(self, reason: ErrorReason, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})

    @property
    def status(self) -> int:
        """The HTTP status this error is answered with."""
        return HTTP_STATUS[self.reason]

    @property
    def body(self) -> ErrorBody:
        """The envelope this error is answered with."""
        return ErrorBody(self.status, self.reason, self.message, self.metadata)


class InvalidRequest(MaquetteError):
    """The request breaks a documented rule; the caller must change it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(ErrorReason.INVALID_REQUEST_BODY, f"{field}: {problem}")
        self.field = field


class FeatureNotAllowed(MaquetteError):
    """The request asks for something that this server's operator has not opened to the caller."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(ErrorReason.FEATURE_NOT_ALLOWED, f"{field}: {problem}")
        self.field = field


class RateLimitExceeded(MaquetteError):
    """More was asked for than may be in a time; it may be sent again after `retry_after` whole seconds."""

    def __init__(self, problem: str, retry_after: int) -> None:
        super().__init__(ErrorReason.RATE_LIMIT_EXCEEDED, f"{problem}; try again in {retry_after} s")
        self.retry_after = retry_after


class TaskNotFound(MaquetteError):
    """No such task for this tenant; a foreign task reads exactly the same."""

    def __init__(self) -> None:
        super().__init__(ErrorReason.TASK_NOT_FOUND, "task not found")


@contextmanager
def about_file(path: Path) -> Generator[None]:
    """Say in an error which file it is about."""
    try:
        yield
    except MaquetteError as error:
        raise MaquetteError(error.reason, f"{path}: {error.message}", error.metadata) from error
