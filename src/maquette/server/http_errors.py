"""Every error's way to the wire: the envelope `{code, reason, message, metadata}`, whatever went wrong."""

from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    InternalServerException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi import ResponseSpec
from litestar.params import QueryParameter
from litestar.types import ExceptionHandlersMap
from litestar.typing import FieldDefinition
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from maquette.core.errors import ErrorBody, ErrorReason, InvalidRequest, MaquetteError, RateLimitExceeded
from maquette.core.requirements import requirement, shown
from maquette.server.queries import parameter_type

log: structlog.stdlib.BoundLogger = structlog.get_logger()
Connection = Request[Any, Any, Any]

NOT_NOW = ("08", "53", "57P")
"""SQL states of a server that can't be reached, is full, or starts or stops (PostgreSQL's appendix A)."""


FAILURE = "failure"
"""Key of a call's options under which it names the reason that is published for what goes wrong in the server."""
CREATES_TASK = {FAILURE: ErrorReason.CREATE_TASK_FAILED}
GETS_RESULT = {FAILURE: ErrorReason.GET_RESULT_FAILED}

AWAY = "Database or storage can't be reached; try again shortly."
FAILED = "Database or storage can't be reached, and there is a Retry-After; or there is none, and it is a defect."


def _documented(words: dict[int, str]) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(ErrorBody, description=meaning, generate_examples=False)
        for status, meaning in words.items()
    }


_REFUSALS = _documented(
    {
        400: "A field, a parameter or a picture breaks its rule.",
        403: "The API key or the upload address is not good.",
        404: "No such call, or no such task of this tenant.",
        409: "The task's status does not allow it, or a picture was uploaded anew or erased while a task took it.",
    }
)
_REUSED = _documented({422: "The Idempotency-Key came with another request before."})

# Every call's errors, for the API schema. A call that creates takes an Idempotency-Key.
ERRORS = _REFUSALS | _documented({503: AWAY})
CREATING_ERRORS = ERRORS | _REUSED
TASK_CREATING_ERRORS = _REFUSALS | _REUSED | _documented({500: FAILED})
DRAWING_ERRORS = TASK_CREATING_ERRORS | _documented(
    {429: "More pictures were asked for than may be in a minute; there is room again after Retry-After seconds."}
)
RESULT_ERRORS = _REFUSALS | _documented({500: FAILED})


def answer(error: MaquetteError, headers: dict[str, str] | None = None) -> Response[ErrorBody]:
    """The envelope of an error."""
    return Response(error.body, status_code=error.status, headers=headers)


def _known(_request: Connection, error: MaquetteError) -> Response[ErrorBody]:
    return answer(error)


def _too_fast(_request: Connection, error: RateLimitExceeded) -> Response[ErrorBody]:
    return answer(error, {"Retry-After": str(error.retry_after)})


def _unknown_route(_request: Connection, _error: NotFoundException) -> Response[ErrorBody]:
    return answer(MaquetteError(ErrorReason.API_NOT_FOUND, "no such API; /openapi.json lists them"))


def _wrong_method(request: Connection, error: MethodNotAllowedException) -> Response[ErrorBody]:
    refusal = MaquetteError(ErrorReason.METHOD_NOT_ALLOWED, f"{request.method} is not allowed here")
    return answer(refusal, error.headers)


def _invalid_parameter(request: Connection, error: ValidationException) -> Response[ErrorBody]:
    """The first bad parameter, under its name on the wire instead of the handler's."""
    problem: dict[str, str] = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    for field in request.route_handler.parsed_fn_signature.parameters.values():
        rule = field.kwarg_definition
        if isinstance(rule, QueryParameter) and (field.name == problem.get("key") or _is_missing(request, field, rule)):
            return answer(_parameter_refusal(request, field, rule))
    return answer(InvalidRequest("body", "is required; send a JSON object"))


def _is_missing(request: Connection, field: FieldDefinition, rule: QueryParameter) -> bool:
    return not field.has_default and rule.name not in request.query_params


def _parameter_refusal(request: Connection, field: FieldDefinition, rule: QueryParameter) -> InvalidRequest:
    name = rule.name or field.name
    kind = parameter_type(field, rule)
    if name not in request.query_params:
        return InvalidRequest(name, f"is required; it {requirement(kind)}")
    return InvalidRequest(name, f"{requirement(kind)}, got {shown(request.query_params[name])}")


def _too_large(request: Connection, _error: RequestEntityTooLarge) -> Response[ErrorBody]:
    return answer(
        InvalidRequest("body", f"must be at most {request.route_handler.resolve_request_max_body_size()} bytes")
    )


def _client_mistake(_request: Connection, error: ClientException) -> Response[ErrorBody]:
    return answer(InvalidRequest("request", error.detail))


def _backend_away(request: Connection, error: Exception) -> Response[ErrorBody]:
    log.error("backend unavailable", method=request.method, path=request.url.path, exc_info=error)
    reason = _failure(request, ErrorReason.SERVICE_UNAVAILABLE)
    words = "the database or the storage can't be reached; try again shortly"
    return answer(MaquetteError(reason, words), {"Retry-After": "5"})


def _database_error(request: Connection, error: DBAPIError) -> Response[ErrorBody]:
    lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return _backend_away(request, error) if lost else _defect(request, error)


def _unforeseen(request: Connection, error: Exception) -> Response[ErrorBody]:
    """PostgreSQL's driver raises its own errors while it connects, and no other way tells them than their SQL state."""
    state = str(getattr(error, "sqlstate", ""))
    return _backend_away(request, error) if state.startswith(NOT_NOW) else _defect(request, error)


def _framework_error(request: Connection, error: InternalServerException) -> Response[ErrorBody]:
    """The framework's own errors; a client that left in the middle of its body is one of them, and nobody's fault."""
    if "client disconnected" not in error.detail:
        return _defect(request, error)
    log.info("client left", method=request.method, path=request.url.path)
    return answer(InvalidRequest("body", "broke off"))


def _defect(request: Connection, error: Exception) -> Response[ErrorBody]:
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    reason = _failure(request, ErrorReason.INTERNAL_ERROR)
    return answer(MaquetteError(reason, "internal error; the server's log has the details"))


def _failure(request: Connection, otherwise: ErrorReason) -> ErrorReason:
    """The reason that is published for a failure of this call; a request that met no call has none."""
    handler = request.scope.get("route_handler")
    return handler.opt.get(FAILURE, otherwise) if handler else otherwise


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    MaquetteError: _known,
    RateLimitExceeded: _too_fast,
    NotFoundException: _unknown_route,
    MethodNotAllowedException: _wrong_method,
    ValidationException: _invalid_parameter,
    RequestEntityTooLarge: _too_large,
    ClientException: _client_mistake,
    InternalServerException: _framework_error,
    DBAPIError: _database_error,
    PoolTimeoutError: _backend_away,
    OSError: _backend_away,
    Exception: _unforeseen,
}
"""The most specific class of an error decides. An OSError is a network's, a disk's or a storage's."""
