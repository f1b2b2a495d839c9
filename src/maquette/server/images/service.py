"""Image tasks as their owner sees them. Nobody else's tasks exist here: a foreign id reads like an unknown one."""

from math import ceil

from msgspec import UNSET, Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import TaskNotFound
from maquette.core.ids import is_task_id
from maquette.core.lifecycle import ImageStatus
from maquette.db.now import now
from maquette.server.base_url import base_url
from maquette.server.images import repository
from maquette.server.images.repository import ImageTaskRecord
from maquette.server.images.schemas import (
    EVENT,
    DebugInfo,
    ImageEntry,
    ResultExtra,
    TaskEvent,
    TaskResult,
    TaskState,
    WebhookEcho,
)
from maquette.server.signing import Signer


class Addresses(Struct, frozen=True):
    """How pictures are addressed: `base` is what addresses begin with, `ttl` the seconds for which they are good."""

    signer: Signer
    base: str
    ttl: int

    def of(self, key: str, at: float) -> str:
        """The address of an object, handed out at `at` (Unix seconds)."""
        return self.base + self.signer.sign("GET", f"/{key}", ceil(at) + self.ttl)


async def result(
    conn: AsyncConnection, tenant_id: str, image_task_id: str, addresses: Addresses, *, kept: float
) -> TaskResult:
    """The published answer about one task.

    Raises:
        TaskNotFound: the id is malformed, unknown or somebody else's, or the task ended more than `kept` seconds ago.
    """
    task = await repository.find(conn, tenant_id, image_task_id, kept=kept) if is_task_id(image_task_id) else None
    if task is None:
        raise TaskNotFound
    return _result(task, addresses, await now(conn))


async def event(
    conn: AsyncConnection, tenant_id: str, image_task_id: str, signer: Signer, *, public_url: str, ttl: int
) -> TaskEvent:
    """What the webhook of a task that has ended is told.

    Addresses begin with `public_url`, or where that is empty as the client reached the server that took its request.

    Raises:
        TaskNotFound: there is no such task any more.
    """
    task = await repository.find(conn, tenant_id, image_task_id)
    if task is None:
        raise TaskNotFound
    found = _result(task, Addresses(signer, base_url(public_url, task.public_url), ttl), await now(conn))
    echo = WebhookEcho(task.webhook_url) if task.webhook_url else UNSET
    return TaskEvent(EVENT, replace(found, extra=replace(found.extra, webhook=echo)))


async def prompt(conn: AsyncConnection, tenant_id: str, image_task_id: str) -> str:
    """The words that a task draws from.

    Raises:
        TaskNotFound: there is no such task any more.
    """
    task = await repository.find(conn, tenant_id, image_task_id)
    if task is None:
        raise TaskNotFound
    return task.spec.prompt


def _result(task: ImageTaskRecord, addresses: Addresses, at: float) -> TaskResult:
    return TaskResult(
        extra=ResultExtra(seed=str(task.spec.seed), debug_info=_debug_info(task) or UNSET),
        task=TaskState(
            task_id=task.id,
            task_type=task.kind,
            status=_status(task),
            reason=task.message if task.status is ImageStatus.FAILED else "",
            eta=_eta(task, at),
            progress_percent=_percent(task),
        ),
        images=[
            ImageEntry(addresses.of(image.key, at), str(addresses.ttl), image.format) for image in task.images or ()
        ],
        videos=[],
        audios=[],
    )


def _status(task: ImageTaskRecord) -> ImageStatus:
    """A task that waits in a pool's own queue waits, whoever has claimed it."""
    waits = task.status is ImageStatus.PROCESSING and task.started_at is None
    return ImageStatus.QUEUED if waits else task.status


def _debug_info(task: ImageTaskRecord) -> DebugInfo | None:
    """None before all three instants are known: a client would take no empty ones."""
    if task.started_at is None or task.finished_at is None:
        return None
    return DebugInfo(
        request_info="; ".join(task.spec.departures),
        submit_time_ms=_milliseconds(task.created_at),
        execute_time_ms=_milliseconds(task.started_at),
        complete_time_ms=_milliseconds(task.finished_at),
    )


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _percent(task: ImageTaskRecord) -> int:
    """Whole percents; 100 only for what succeeded."""
    if task.status is ImageStatus.SUCCEED:
        return 100
    return min(99, 100 * task.step // task.total_steps)


def _eta(task: ImageTaskRecord, at: float) -> int:
    """Seconds left at the pace so far; 0 while nothing is known of it."""
    if task.status is not ImageStatus.PROCESSING or task.started_at is None or task.step < 1:
        return 0
    return max(0, round((at - task.started_at) / task.step * (task.total_steps - task.step)))
