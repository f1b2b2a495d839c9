"""Training tasks as their owner sees them. Nobody else's tasks exist here: a foreign id reads like an unknown one."""

from msgspec import UNSET, UnsetType
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import ErrorReason, MaquetteError, TaskNotFound
from maquette.core.ids import is_task_id
from maquette.core.lifecycle import TASK, Reason, TaskStatus
from maquette.core.metrics import Curve, last_told, standing, thinned, thinned_validation
from maquette.core.rundir import CHECKPOINT_LORA, CHECKPOINT_SAMPLE, LORA_FILES
from maquette.core.specs import TaskType
from maquette.core.weights import LoraLayout
from maquette.db.events import append_event, list_events
from maquette.db.move import move_task
from maquette.db.now import now
from maquette.server.training import repository
from maquette.server.training.cursors import cursor_after, parse_cursor
from maquette.server.training.repository import ModelRecord, TaskRecord
from maquette.server.training.schemas import (
    MODEL_TYPE,
    AttemptEntry,
    CancelAnswer,
    CheckpointEntry,
    CheckpointList,
    Distance,
    EventEntry,
    EventPage,
    ListedTask,
    ModelDetail,
    ModelEntry,
    Pagination,
    PictureEntry,
    QueuePlace,
    StatusExtra,
    TaskDetail,
    TaskList,
    TrainingStatus,
)


async def find(conn: AsyncConnection, tenant_id: str, task_id: str) -> TaskRecord:
    """The tenant's task.

    Raises:
        TaskNotFound: the id is malformed, unknown or somebody else's.
    """
    task = await repository.find(conn, tenant_id, task_id) if is_task_id(task_id) else None
    if task is None:
        raise TaskNotFound
    return task


async def status(conn: AsyncConnection, tenant_id: str, task_id: str) -> TrainingStatus:
    """The published answer about one task.

    Raises:
        TaskNotFound: see `find`.
    """
    task = await find(conn, tenant_id, task_id)
    return TrainingStatus(
        task_id=task.id,
        task_status=task.status,
        model_type=MODEL_TYPE,
        models=_models(task.model_name, task.model_status),
        extra=StatusExtra(
            eta_relative=task.eta_seconds,
            progress_percent=_percent(task),
            failed_reason=task.message if task.status is TaskStatus.FAILED else UNSET,
        ),
    )


async def list_tasks(
    conn: AsyncConnection, tenant_id: str, *, limit: int, cursor: str, task_type: TaskType | None
) -> TaskList:
    """One page of the published list, newest first.

    Raises:
        InvalidRequest: the cursor is none of ours.
    """
    position = parse_cursor(cursor)
    rows = await repository.list_page(
        conn,
        tenant_id,
        limit=limit,
        before_number=position.before_number,
        offset=position.offset,
        task_type=task_type,
    )
    tasks = [
        ListedTask(
            task_name=row.name,
            task_id=row.id,
            task_type=row.task_type,
            task_status=row.status,
            created_at=int(row.created_at),
            models=_models(row.model_name, row.model_status),
        )
        for row in rows
    ]
    return TaskList(tasks, Pagination(cursor_after(rows[-1].number) if rows else ""))


async def detail(conn: AsyncConnection, tenant_id: str, task_id: str) -> TaskDetail:
    """Everything about one task.

    Raises:
        TaskNotFound: see `find`.
    """
    task = await find(conn, tenant_id, task_id)
    attempts = await repository.list_attempts(conn, tenant_id, task_id)
    model = await repository.find_model(conn, tenant_id, task_id)
    measured = standing(await repository.last_metrics(conn, tenant_id, task_id))
    return TaskDetail(
        task_name=task.name,
        task_id=task.id,
        task_type=task.spec.task_type,
        task_status=task.status,
        created_at=int(task.created_at),
        models=_models(task.model_name, task.model_status),
        reason=task.reason,
        message=task.message,
        progress_percent=_percent(task),
        step=task.step,
        total_steps=task.total_steps,
        eta_seconds=task.eta_seconds,
        metrics=UNSET if measured is None else measured,
        cancel_requested=task.cancel_requested_at is not None,
        finished_at=UNSET if task.finished_at is None else int(task.finished_at),
        queue=await _queue_place(conn, task) if task.status is TaskStatus.QUEUING else UNSET,
        model=UNSET if model is None else _model(model),
        attempts=[
            AttemptEntry(
                attempt=attempt.fence,
                device=attempt.device,
                started_at=int(attempt.started_at),
                ended_at=UNSET if attempt.ended_at is None else int(attempt.ended_at),
                reason=attempt.reason or UNSET,
            )
            for attempt in attempts
        ],
        base_model=task.spec.base.name,
        width=task.spec.preparation.width,
        height=task.spec.preparation.height,
        settings=task.spec.settings,
        sample=task.spec.sample,
        pictures=[
            PictureEntry(picture.name, picture.sha256, picture.caption or task.spec.settings.instance_prompt)
            for picture in task.spec.pictures
        ],
    )


async def cancel(conn: AsyncConnection, tenant_id: str, task_id: str) -> CancelAnswer:
    """Ask for a task to end. One that waits ends now; one that trains ends when its training was stopped; one that
    has ended stays as it is.

    Raises:
        TaskNotFound: see `find`.
    """
    await find(conn, tenant_id, task_id)
    found = await repository.request_cancel(conn, tenant_id, task_id)
    if found is None:
        return CancelAnswer(task_id, (await find(conn, tenant_id, task_id)).status)
    if found.status is TaskStatus.QUEUING:
        await move_task(conn, tenant_id, task_id, source=found.status, to=TaskStatus.CANCELED, reason=Reason.CANCELED)
        return CancelAnswer(task_id, TaskStatus.CANCELED)
    if found.is_first:
        await append_event(conn, tenant_id=tenant_id, task_id=task_id, kind="cancel_requested", data={})
    return CancelAnswer(task_id, found.status)


async def events(conn: AsyncConnection, tenant_id: str, task_id: str, *, after: int, limit: int) -> EventPage:
    """A task's history behind event `after`, oldest first.

    Raises:
        TaskNotFound: see `find`.
    """
    await find(conn, tenant_id, task_id)
    found = await list_events(conn, tenant_id, task_id, after=after, limit=limit)
    entries = [EventEntry(event.number, event.kind, event.created_at, event.data) for event in found]
    return EventPage(entries, entries[-1].number if entries else after)


async def metrics(conn: AsyncConnection, tenant_id: str, task_id: str, *, points: int) -> Curve:
    """How a task's training goes, in at most so many points, and as many of validation.

    Raises:
        TaskNotFound: see `find`.
    """
    await find(conn, tenant_id, task_id)
    blocks = await repository.list_metrics(conn, tenant_id, task_id)
    validation = last_told(await repository.list_validation(conn, tenant_id, task_id))
    return Curve(points=thinned(blocks, points), validation=thinned_validation(validation, points))


async def weights(conn: AsyncConnection, tenant_id: str, task_id: str, layout: LoraLayout) -> tuple[str, str]:
    """Published name and object key of a task's LoRA in a layout.

    Raises:
        TaskNotFound: see `find`.
        MaquetteError: CONFLICT, where the task has no LoRA.
    """
    task = await find(conn, tenant_id, task_id)
    if task.model_name is None or task.model_object_key is None:
        ending = "it never will" if TASK.is_final(task.status) else "wait for SUCCESS"
        raise MaquetteError(ErrorReason.CONFLICT, f"the task is {task.status} and has no weights; {ending}")
    folder, _, _ = task.model_object_key.rpartition("/")
    key = task.model_object_key if layout is LoraLayout.DIFFUSERS else f"{folder}/{LORA_FILES[layout]}"
    return task.model_name, key


async def checkpoints(conn: AsyncConnection, tenant_id: str, task_id: str) -> CheckpointList:
    """The checkpoints of a task that are kept and hold a LoRA.

    Raises:
        TaskNotFound: see `find`.
    """
    await find(conn, tenant_id, task_id)
    entries: list[CheckpointEntry] = []
    for checkpoint in await repository.list_checkpoints(conn, tenant_id, task_id):
        files = {file.path: file for file in checkpoint.files}
        if lora := files.get(CHECKPOINT_LORA):
            entries.append(
                CheckpointEntry(
                    step=checkpoint.step,
                    created_at=int(checkpoint.created_at),
                    size=lora.size,
                    sha256=lora.sha256,
                    samples=sum(CHECKPOINT_SAMPLE.format(index) in files for index in range(len(files))),
                )
            )
    return CheckpointList(entries)


async def checkpoint_file(conn: AsyncConnection, tenant_id: str, task_id: str, step: int, name: str) -> str:
    """Object key of one of a checkpoint's files.

    Raises:
        TaskNotFound: see `find`.
        MaquetteError: CHECKPOINT_NOT_FOUND, where no checkpoint of this step is kept, or it has no such file.
    """
    await find(conn, tenant_id, task_id)
    for checkpoint in await repository.list_checkpoints(conn, tenant_id, task_id):
        if checkpoint.step == step and name in {file.path for file in checkpoint.files}:
            return f"{checkpoint.prefix}/{name}"
    raise MaquetteError(
        ErrorReason.CHECKPOINT_NOT_FOUND, f"no {name} of step {step} is kept; the task's checkpoints are listed"
    )


async def _queue_place(conn: AsyncConnection, task: TaskRecord) -> QueuePlace:
    ahead = await repository.count_ahead(conn, task)
    pause = task.not_before - await now(conn)
    if pause > 0:
        waiting_for = f"another attempt in {pause:.0f} s, after the last one ended: {task.message or task.reason}"
    elif ahead:
        waiting_for = "tasks that were created earlier"
    else:
        waiting_for = "a free device"
    return QueuePlace(ahead + 1, waiting_for)


def _model(model: ModelRecord) -> ModelDetail:
    return ModelDetail(
        model_name=model.name,
        model_status=model.status,
        verdict=model.verdict,
        message=model.verdict_message,
        from_sample=_distance(model.from_sample_mean, model.from_sample_largest),
        from_base=_distance(model.from_base_mean, model.from_base_largest),
        judged_at=UNSET if model.judged_at is None else int(model.judged_at),
        judged_with=model.judged_with or UNSET,
    )


def _distance(mean: float | None, largest: int | None) -> Distance | UnsetType:
    return UNSET if mean is None or largest is None else Distance(mean, largest)


def _models(name: str | None, status: str | None) -> list[ModelEntry]:
    return [ModelEntry(name, status)] if name and status else []


def _percent(task: TaskRecord) -> int:
    """Whole percents; 100 only for what succeeded."""
    if task.status is TaskStatus.SUCCESS:
        return 100
    return min(99, 100 * task.step // task.total_steps)
