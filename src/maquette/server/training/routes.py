"""Calls about training tasks."""

from typing import Annotated

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter, SkipValidation
from litestar.response import Stream

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.metrics import MAX_POINTS, Curve
from maquette.core.picture_format import PictureFormat
from maquette.core.requirements import read
from maquette.core.rundir import CHECKPOINT_LORA, CHECKPOINT_SAMPLE
from maquette.core.specs import TaskType, TrainingRequest
from maquette.core.weights import LoraLayout
from maquette.db.engine import Database
from maquette.server.assets import service as assets
from maquette.server.http_errors import CREATES_TASK, ERRORS, GETS_RESULT, RESULT_ERRORS, TASK_CREATING_ERRORS
from maquette.server.idempotency import Idempotency
from maquette.server.queries import Published
from maquette.server.settings import Settings
from maquette.server.training import creation, service
from maquette.server.training.schemas import (
    CancelAnswer,
    CheckpointList,
    CreatedTask,
    EventPage,
    TaskDetail,
    TaskList,
    TrainingBody,
    TrainingStatus,
)
from maquette.storage.base import ObjectMissing, Storage

Limit = Annotated[int, QueryParameter(name="pagination.limit", ge=1, le=100, description="Rows on the page.")]
Cursor = Annotated[
    str,
    QueryParameter(name="pagination.cursor", description="`next_cursor` of the page before."),
    Published("extended: a position, or as published a count of rows to skip"),
]
# Text, since the framework would read the word null as None where that is a choice.
TypeFilter = Annotated[
    str,
    QueryParameter(
        name="task_type",
        description="Only tasks of this type, `subject` or `style`.",
        schema_extra={"enum": ["", *map(str, TaskType)]},
    ),
    Published("extended: clients send it, the reference has it not"),
]
TaskIdQuery = Annotated[
    str,
    QueryParameter(name="task_id", description="The task's id."),
    Published("extended: of either type, for both calls"),
]
OURS = Published("the call is ours")
After = Annotated[
    int, QueryParameter(name="after", ge=0, le=2**62, description="Number of the last event known."), OURS
]
Layout = Annotated[
    LoraLayout,
    QueryParameter(name="layout", description="`diffusers`, or `kohya` for ComfyUI and the web interfaces."),
    OURS,
]
Points = Annotated[
    int, QueryParameter(name="points", ge=1, le=MAX_POINTS, description="Points of the curve at most."), OURS
]
EventLimit = Annotated[int, QueryParameter(name="limit", ge=1, le=1000, description="Events on the page."), OURS]


@post(
    "/training/subject",
    dto=TrainingBody,
    return_dto=None,
    status_code=200,
    responses=TASK_CREATING_ERRORS,
    opt=CREATES_TASK,
)
async def create_subject(
    tenant_id: NamedDependency[str],
    data: JSONBody[TrainingRequest],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    settings: NamedDependency[Settings],
    once: NamedDependency[Idempotency],
) -> CreatedTask:
    """Train a LoRA of a subject: a person, an animal, a thing."""
    return await _create(TaskType.SUBJECT, tenant_id, data, database, storage, settings, once)


@post(
    "/training/style",
    dto=TrainingBody,
    return_dto=None,
    status_code=200,
    responses=TASK_CREATING_ERRORS,
    opt=CREATES_TASK,
)
async def create_style(
    tenant_id: NamedDependency[str],
    data: JSONBody[TrainingRequest],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    settings: NamedDependency[Settings],
    once: NamedDependency[Idempotency],
) -> CreatedTask:
    """Train a LoRA of a style."""
    return await _create(TaskType.STYLE, tenant_id, data, database, storage, settings, once)


async def _create(
    task_type: TaskType,
    tenant_id: str,
    request: TrainingRequest,
    database: Database,
    storage: Storage,
    settings: Settings,
    once: Idempotency,
) -> CreatedTask:
    async with database.read() as conn:
        if earlier := await once.answer(conn, CreatedTask):
            return earlier
        draft = await creation.draft(conn, settings, tenant_id, task_type, request)
    sealed = await assets.seal(storage, tenant_id, set(draft.pictures))
    async with database.write() as conn:
        if earlier := await once.claim(conn, CreatedTask):
            return earlier
        created = CreatedTask(await creation.create(conn, tenant_id, draft, sealed))
        await once.remember(conn, created)
    return created


@get(["/training/subject", "/training/style"], responses=RESULT_ERRORS, opt=GETS_RESULT)
async def task_status(
    tenant_id: NamedDependency[str], database: NamedDependency[Database], task_id: TaskIdQuery
) -> TrainingStatus:
    """Status and model of a task, of whichever type."""
    async with database.read() as conn:
        return await service.status(conn, tenant_id, task_id)


@get("/training", responses=ERRORS)
async def list_tasks(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    limit: Limit = 100,
    cursor: Cursor = "",
    task_type: TypeFilter = "",
) -> TaskList:
    """The tenant's tasks, newest first."""
    only = read(task_type, TaskType, "task_type") if task_type else None
    async with database.read() as conn:
        return await service.list_tasks(conn, tenant_id, limit=limit, cursor=cursor, task_type=only)


@get("/training/{task_id:str}", responses=ERRORS)
async def task_detail(
    tenant_id: NamedDependency[str], database: NamedDependency[Database], task_id: FromPath[str]
) -> TaskDetail:
    """Everything about one task: progress, place in the queue, attempts, and the settings it runs with."""
    async with database.read() as conn:
        return await service.detail(conn, tenant_id, task_id)


@post("/training/{task_id:str}/cancel", status_code=200, responses=ERRORS)
async def cancel_task(
    tenant_id: NamedDependency[str], database: NamedDependency[Database], task_id: FromPath[str]
) -> CancelAnswer:
    """Ask for a task to end; asking again is harmless."""
    async with database.write() as conn:
        return await service.cancel(conn, tenant_id, task_id)


@get("/training/{task_id:str}/events", responses=ERRORS)
async def task_events(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    task_id: FromPath[str],
    after: After = 0,
    limit: EventLimit = 100,
) -> EventPage:
    """A task's history, oldest first."""
    async with database.read() as conn:
        return await service.events(conn, tenant_id, task_id, after=after, limit=limit)


@get("/training/{task_id:str}/metrics", responses=ERRORS)
async def task_metrics(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    task_id: FromPath[str],
    points: Points = MAX_POINTS,
) -> Curve:
    """How a training goes: loss, rate, gradient, pace and memory, thinned to what a chart can show."""
    async with database.read() as conn:
        return await service.metrics(conn, tenant_id, task_id, points=points)


@get("/training/{task_id:str}/weights", responses=ERRORS, media_type="application/octet-stream")
async def task_weights(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    task_id: FromPath[str],
    layout: Layout = LoraLayout.DIFFUSERS,
) -> Stream:
    """The trained LoRA as a safetensors file."""
    async with database.read() as conn:
        name, key = await service.weights(conn, tenant_id, task_id, layout)
    try:
        return await _lora(storage, key, name)
    except ObjectMissing:
        raise MaquetteError(ErrorReason.CONFLICT, f"layout: this LoRA was not written as {layout}") from None


@get("/training/{task_id:str}/checkpoints", responses=ERRORS)
async def task_checkpoints(
    tenant_id: NamedDependency[str], database: NamedDependency[Database], task_id: FromPath[str]
) -> CheckpointList:
    """The checkpoints of a training that are kept, oldest first."""
    async with database.read() as conn:
        return await service.checkpoints(conn, tenant_id, task_id)


@get("/training/{task_id:str}/checkpoints/{step:int}/weights", responses=ERRORS, media_type="application/octet-stream")
async def checkpoint_weights(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    task_id: FromPath[str],
    step: FromPath[int],
) -> Stream:
    """A checkpoint's LoRA as a safetensors file in diffusers layout."""
    async with database.read() as conn:
        key = await service.checkpoint_file(conn, tenant_id, task_id, step, CHECKPOINT_LORA)
    return await _lora(storage, key, f"{task_id}-step-{step}.safetensors")


@get("/training/{task_id:str}/checkpoints/{step:int}/samples/{index:int}", responses=ERRORS, media_type="image/png")
async def checkpoint_sample(
    tenant_id: NamedDependency[str],
    database: NamedDependency[Database],
    storage: NamedDependency[SkipValidation[Storage]],
    task_id: FromPath[str],
    step: FromPath[int],
    index: FromPath[int],
) -> Stream:
    """A picture drawn with a checkpoint's LoRA, where the request asked for `checkpoint_samples`; counted from 0."""
    async with database.read() as conn:
        key = await service.checkpoint_file(conn, tenant_id, task_id, step, CHECKPOINT_SAMPLE.format(index))
    info = await storage.head(key)
    headers = {"content-length": str(info.size)}
    return Stream(storage.stream(key), headers=headers, media_type=PictureFormat.PNG.content_type)


async def _lora(storage: Storage, key: str, name: str) -> Stream:
    info = await storage.head(key)
    headers = {"content-disposition": f'attachment; filename="{name}"', "content-length": str(info.size)}
    return Stream(storage.stream(key), headers=headers, media_type="application/octet-stream")
