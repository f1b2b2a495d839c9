"""What the models slice asks of the database. Every query for a tenant takes the tenant; the gate's take all."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Select, and_, case, exists, func, literal, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import ModelStatus, Verdict
from maquette.core.specs import TrainingSpec
from maquette.db.now import now_sql
from maquette.db.tables import bases, model_rejections, models, tasks

CHECKPOINT = "checkpoint"
SDXL = "sdxl"
SHOWN_OF_HASH = 10
"""Characters of a hash that people are shown."""
NO_BASE = "no base"
"""What a model is judged with where its base is not registered."""

_BASE = tasks.c.spec["base"]
"""Of the spec that a model was trained with."""
_FAMILY: ColumnElement[str] = _BASE["family"].as_string()
_OF_ITS_TASK = and_(models.c.task_id == tasks.c.id, models.c.tenant_id == tasks.c.tenant_id)


class Lora(Struct, frozen=True, kw_only=True):
    """A trained model, to draw with.

    Attributes:
        name: published file name.
        object_key, sha256: its weights in storage, and their hash (hex).
        verdict: what the parity gate says; `verdict_message` says why it was rejected, or is not judged yet.
        base_name, base_family, base_sha256: the base that it was trained on.
    """

    id: str
    name: str
    object_key: str
    sha256: str
    status: ModelStatus
    verdict: Verdict
    verdict_message: str
    base_name: str
    base_family: str
    base_sha256: str


class UnjudgedModel(Struct, frozen=True, kw_only=True):
    """A model of any tenant that the parity gate has to judge, with all that it takes.

    Attributes:
        name: published file name.
        object_key, sha256: its weights in storage, and their hash (hex).
        sample_key: the picture that its trainer drew.
        spec: what it was trained with, the sample's settings among it.
        base_name, base_location: the very base it was trained on, as it is registered now; None while it is not.
        attempts: judgements in a row that came to no verdict.
        lost_workers: the latest of them, in a row, over which a worker was lost.
    """

    id: str
    tenant_id: str
    task_id: str
    name: str
    object_key: str
    sha256: str
    sample_key: str
    spec: TrainingSpec
    base_name: str | None
    base_location: str | None
    attempts: int
    lost_workers: int


class ModelObjects(Struct, frozen=True):
    """Where a model's weights and its trainer's sample are stored."""

    object_key: str
    sample_key: str


class ListedModel(Struct, frozen=True, kw_only=True):
    """One row of the list of models, a tenant's own or one of the operator's.

    Attributes:
        is_private: whether it is the tenant's.
        number: runs per tenant for private ones, over all bases for public ones.
        kind: "lora", or what a base is for.
        file_name: published.
        tag: type of the task that trained it; family of a base.
        sha256: hex.
        is_rejected: whether the parity gate turned it away.
    """

    is_private: bool
    number: int
    name: str
    kind: str
    file_name: str
    family: str
    tag: str
    sha256: str
    is_rejected: bool


class ModelFilter(Struct, frozen=True, kw_only=True):
    """Which models a list is asked for.

    Attributes:
        private, public: whether the tenant's own, and the operator's.
        kinds: of the operator's; None for every kind.
        is_sdxl: only models of that family, or none; None for all.
        words: what name, file name or tag contain, in any case; "" for anything.
    """

    private: bool = True
    public: bool = True
    kinds: Collection[str] | None = None
    is_sdxl: bool | None = None
    words: str = ""


async def is_taken(conn: AsyncConnection, tenant_id: str, name: str) -> bool:
    """Whether one of a tenant's models has this name."""
    query = select(exists().where(models.c.tenant_id == tenant_id, models.c.name == name))
    return bool(await conn.scalar(query))


async def find_lora(conn: AsyncConnection, tenant_id: str, names: Sequence[str]) -> Lora | None:
    """A tenant's model that has one of these names."""
    query = (
        select(
            *(models.c[field] for field in Lora.__struct_fields__ if not field.startswith("base_")),
            _BASE["name"].as_string().label("base_name"),
            _FAMILY.label("base_family"),
            _BASE["sha256"].as_string().label("base_sha256"),
        )
        .join_from(models, tasks, _OF_ITS_TASK)
        .where(models.c.tenant_id == tenant_id, models.c.name.in_(names))
        .order_by(models.c.number)
        .limit(1)
    )
    row = (await conn.execute(query)).mappings().one_or_none()
    return msgspec.convert(row, Lora) if row else None


async def find_objects(conn: AsyncConnection, tenant_id: str, name: str) -> ModelObjects | None:
    """Where the objects of a tenant's model of this name are."""
    query = select(models.c.object_key, models.c.sample_key)
    row = (await conn.execute(query.where(models.c.tenant_id == tenant_id, models.c.name == name))).one_or_none()
    return ModelObjects(*row) if row else None


# ------------------------------------------------------------------------------------------------------ the list


async def list_page(
    conn: AsyncConnection, tenant_id: str, wanted: ModelFilter, *, limit: int, offset: int
) -> list[ListedModel]:
    """At most `limit` models after the first `offset`: the tenant's own, newest first, then the operator's, oldest
    first, so that a new one of the latter comes last.
    """
    parts = [
        *([_private(tenant_id, wanted)] if wanted.private else []),
        *([_public(wanted)] if wanted.public else []),
    ]
    if not parts:
        return []
    union = union_all(*parts).subquery()
    query = (
        select(*(union.c[field] for field in ListedModel.__struct_fields__))
        .order_by(union.c.is_private.desc(), union.c.place)
        .limit(limit)
        .offset(offset)
    )
    return [msgspec.convert(row, ListedModel, strict=False) for row in (await conn.execute(query)).mappings()]


def _private(tenant_id: str, wanted: ModelFilter) -> Select[*tuple[Any, ...]]:
    conditions = [models.c.tenant_id == tenant_id, *_family(_FAMILY, wanted)]
    return (
        select(
            literal(1).label("is_private"),
            (-models.c.number).label("place"),
            models.c.number,
            tasks.c.name.label("name"),
            literal("lora").label("kind"),
            models.c.name.label("file_name"),
            _FAMILY.label("family"),
            tasks.c.task_type.label("tag"),
            models.c.sha256,
            case((models.c.verdict == Verdict.REJECTED, 1), else_=0).label("is_rejected"),
        )
        .join_from(models, tasks, _OF_ITS_TASK)
        .where(*conditions, *_words(wanted, tasks.c.name, models.c.name, tasks.c.task_type))
    )


def _public(wanted: ModelFilter) -> Select[*tuple[Any, ...]]:
    conditions = [*_family(bases.c.family, wanted), *_words(wanted, bases.c.name, bases.c.file_name, bases.c.family)]
    if wanted.kinds is not None:
        conditions.append(bases.c.kind.in_(wanted.kinds))
    return select(
        literal(0).label("is_private"),
        bases.c.number.label("place"),
        bases.c.number,
        bases.c.name,
        bases.c.kind,
        bases.c.file_name,
        bases.c.family,
        bases.c.family.label("tag"),
        bases.c.sha256,
        literal(0).label("is_rejected"),
    ).where(*conditions)


def _family(family: ColumnElement[str], wanted: ModelFilter) -> list[ColumnElement[bool]]:
    if wanted.is_sdxl is None:
        return []
    return [family == SDXL if wanted.is_sdxl else family != SDXL]


def _words(wanted: ModelFilter, *texts: ColumnElement[str]) -> list[ColumnElement[bool]]:
    if not wanted.words:
        return []
    return [or_(*(text.icontains(wanted.words, autoescape=True) for text in texts))]


# ------------------------------------------------------------------------------------------------------ the gate


async def any_rejected(conn: AsyncConnection) -> bool:
    """Whether a model of any tenant is rejected."""
    query = select(exists().where(models.c.verdict == Verdict.REJECTED))
    return bool(await conn.scalar(query))


async def unjudged(conn: AsyncConnection, workers: Collection[str], limit: int) -> list[UnjudgedModel]:
    """Models, of any tenant, that are due for the gate, oldest first; see `models.service.to_judge`."""
    base_name = _base_name()
    is_due = models.c.verdict == Verdict.PENDING
    if workers:
        base = base_name + " " + func.upper(func.substr(_BASE["sha256"].as_string(), 1, SHOWN_OF_HASH))
        by_these = [literal(f"{worker} on ") + base for worker in workers]
        is_judged = exists().where(
            model_rejections.c.model_id == models.c.id, model_rejections.c.judged_with.in_(by_these)
        )
        is_due = or_(is_due, and_(models.c.verdict == Verdict.REJECTED, base_name.is_not(None), ~is_judged))
    plain = [field for field in UnjudgedModel.__struct_fields__ if field in models.c]
    query = (
        select(
            *(models.c[field] for field in plain),
            tasks.c.spec,
            base_name.label("base_name"),
            select(bases.c.location).where(bases.c.name == base_name).scalar_subquery().label("base_location"),
        )
        .join_from(models, tasks, _OF_ITS_TASK)
        .where(models.c.status == ModelStatus.DEPLOYING, models.c.not_before <= now_sql(conn), is_due)
        .order_by(models.c.created_at, models.c.id)
        .limit(limit)
    )
    return [msgspec.convert(row, UnjudgedModel) for row in (await conn.execute(query)).mappings()]


def _base_name() -> ColumnElement[str | None]:
    """What the very base is called by now that a model was trained on."""
    return (
        select(func.min(bases.c.name))
        .where(bases.c.kind == CHECKPOINT, bases.c.sha256 == _BASE["sha256"].as_string())
        .correlate(tasks)
        .scalar_subquery()
    )


async def postpone(
    conn: AsyncConnection, tenant_id: str, model_id: str, pause: float, why: str, *, lost_workers: int
) -> None:
    """Let a model that came to no verdict wait `pause` seconds; one that was rejected before keeps its message."""
    await conn.execute(
        update(models)
        .where(models.c.tenant_id == tenant_id, models.c.id == model_id, models.c.status == ModelStatus.DEPLOYING)
        .values(
            attempts=models.c.attempts + 1,
            lost_workers=lost_workers,
            not_before=now_sql(conn) + pause,
            verdict_message=case((models.c.verdict == Verdict.PENDING, why), else_=models.c.verdict_message),
        )
    )
