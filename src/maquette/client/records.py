"""What the server answers, as far as programs need it. Fields a client doesn't know are ignored."""

from enum import StrEnum
from typing import Any, Self

from msgspec import UNSET, Struct, UnsetType

from maquette.core.lifecycle import ImageStatus, ModelStatus, TaskStatus, Verdict
from maquette.core.metrics import MetricsPoint


class PublishedStatus(StrEnum):
    """A status as published; its UNKNOWN stands for any that this client does not know."""

    @classmethod
    def _missing_(cls, value: object) -> Self:  # noqa: ARG003
        return cls("UNKNOWN")


class Status(PublishedStatus):
    """Status of a task."""

    QUEUING = TaskStatus.QUEUING
    TRAINING = TaskStatus.TRAINING
    SUCCESS = TaskStatus.SUCCESS
    FAILED = TaskStatus.FAILED
    CANCELED = TaskStatus.CANCELED
    UNKNOWN = "UNKNOWN"


ENDED = frozenset({Status.SUCCESS, Status.FAILED, Status.CANCELED})


class DrawingStatus(PublishedStatus):
    """Status of an image task."""

    QUEUED = ImageStatus.QUEUED
    PROCESSING = ImageStatus.PROCESSING
    SUCCEED = ImageStatus.SUCCEED
    FAILED = ImageStatus.FAILED
    UNKNOWN = "UNKNOWN"


class Asset(Struct, frozen=True):
    """Where to send one picture, and what to call it afterwards."""

    assets_id: str
    upload_url: str


class CreatedTask(Struct, frozen=True):
    """The id of a task that was created."""

    task_id: str


class CancelAnswer(Struct, frozen=True):
    """A task's status right after it was asked to end; TRAINING means that it is being stopped."""

    task_id: str
    task_status: Status


class Model(Struct, frozen=True):
    """A trained LoRA: its file name, and DEPLOYING or SERVING."""

    model_name: str
    model_status: str


class Task(Struct, frozen=True):
    """One row of the list; `created_at` in Unix seconds."""

    task_name: str
    task_id: str
    task_type: str
    task_status: Status
    created_at: int
    models: list[Model]


class Pagination(Struct, frozen=True):
    """Where the next page begins; empty behind the last one."""

    next_cursor: str


class TaskPage(Struct, frozen=True):
    """One page of the list."""

    tasks: list[Task]
    pagination: Pagination


class Judgement(Struct, frozen=True):
    """What was found of a trained LoRA: `pending`, `passed` or `rejected`, and why in words; it may be judged anew."""

    verdict: str
    message: str


class TaskPicture(Struct, frozen=True):
    """A picture of a task: how messages call it, its file's hash (hex), and the caption it is trained with."""

    name: str
    sha256: str
    caption: str


class TaskDetail(Struct, frozen=True, kw_only=True):
    """One task with its progress.

    Attributes:
        model: what was found of its LoRA; left out before there is one.
        reason, message: why it has its status.
        step, total_steps: optimiser steps done and to do.
        eta_seconds: estimated seconds of training left.
        metrics: what the last steps measured; left out before the first.
        settings: the resolved settings it runs with.
        pictures: in the order in which they were asked for.
    """

    task_name: str
    task_id: str
    task_type: str
    task_status: Status
    created_at: int
    models: list[Model]
    model: Judgement | UnsetType = UNSET
    reason: str
    message: str
    step: int
    total_steps: int
    eta_seconds: int
    metrics: MetricsPoint | UnsetType = UNSET
    settings: dict[str, Any]
    pictures: list[TaskPicture]

    @property
    def ended(self) -> bool:
        """Whether the status will never change again."""
        return self.task_status in ENDED

    @property
    def served(self) -> bool:
        """Whether its LoRA draws."""
        return any(model.model_status == ModelStatus.SERVING for model in self.models)

    @property
    def rejected(self) -> bool:
        """Whether its LoRA was found not to draw as it was trained to; `model` says why."""
        return self.model is not UNSET and self.model.verdict == Verdict.REJECTED

    @property
    def settled(self) -> bool:
        """Whether it has ended, and its LoRA, where it has one, was judged."""
        return self.ended and (not self.models or self.served or self.rejected)


class Checkpoint(Struct, frozen=True):
    """A checkpoint that is kept: the step after which it was taken, and when (Unix seconds).

    Attributes:
        size: of its LoRA's file, in bytes.
        samples: how many pictures were drawn with it.
    """

    step: int
    created_at: int
    size: int
    samples: int


class CheckpointPage(Struct, frozen=True):
    """All checkpoints of a task that are kept."""

    checkpoints: list[Checkpoint]


class ModelKind(Struct, frozen=True):
    """What a listed model is for: `lora`, `checkpoint` and so on."""

    name: str


class ListedModel(Struct, frozen=True, kw_only=True):
    """A model that can be drawn with.

    Attributes:
        name: that of its task, or that it was registered under.
        sd_name_in_api: how requests for pictures call it.
        status: 1 where it can be drawn with, else 0.
        base_model: its family.
        source: `training` for a LoRA of one's own.
    """

    name: str
    sd_name: str
    sd_name_in_api: str
    type: ModelKind
    status: int
    base_model: str
    source: str


class ModelPage(Struct, frozen=True):
    """One page of the models."""

    models: list[ListedModel]
    pagination: Pagination


class Drawing(Struct, frozen=True, kw_only=True):
    """Where an image task stands; `reason` says why it failed, `eta` are the estimated seconds left."""

    task_id: str
    status: DrawingStatus
    reason: str
    eta: int
    progress_percent: int


class DrawnPicture(Struct, frozen=True):
    """A drawn picture: an address that is good for a while, and the file's format."""

    image_url: str
    image_type: str


class DrawingExtra(Struct, frozen=True):
    """The seed of the first picture; each other's is one more."""

    seed: str


class ImageTask(Struct, frozen=True):
    """An image task, and its pictures once they are drawn."""

    task: Drawing
    images: list[DrawnPicture]
    extra: DrawingExtra

    @property
    def ended(self) -> bool:
        """Whether the status will never change again."""
        return self.task.status in DRAWN_OR_NOT


DRAWN_OR_NOT = frozenset({DrawingStatus.SUCCEED, DrawingStatus.FAILED})


class EventPage(Struct, frozen=True):
    """Part of a task's history: objects with `number`, `kind`, `data` and `created_at`."""

    events: list[dict[str, Any]]
