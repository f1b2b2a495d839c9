"""What the server answers, as far as programs need it. Fields a client doesn't know are ignored."""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from maquette.core.lifecycle import TaskStatus


class Status(StrEnum):
    """Status of a task, as published. UNKNOWN stands for any that this client does not know."""

    QUEUING = TaskStatus.QUEUING
    TRAINING = TaskStatus.TRAINING
    SUCCESS = TaskStatus.SUCCESS
    FAILED = TaskStatus.FAILED
    CANCELED = TaskStatus.CANCELED
    UNKNOWN = "UNKNOWN"

    @classmethod
    def _missing_(cls, value: object) -> "Status":  # noqa: ARG003
        return cls.UNKNOWN


ENDED = frozenset({Status.SUCCESS, Status.FAILED, Status.CANCELED})


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


class TaskDetail(Struct, frozen=True, kw_only=True):
    """One task with its progress.

    Attributes:
        reason, message: why it has its status.
        step, total_steps: optimiser steps done and to do.
        eta_seconds: estimated seconds of training left.
        settings: the resolved settings it runs with.
    """

    task_name: str
    task_id: str
    task_type: str
    task_status: Status
    created_at: int
    models: list[Model]
    reason: str
    message: str
    step: int
    total_steps: int
    eta_seconds: int
    settings: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether the status will never change again."""
        return self.task_status in ENDED


class EventPage(Struct, frozen=True):
    """Part of a task's history: objects with `number`, `kind`, `data` and `created_at`."""

    events: list[dict[str, Any]]
