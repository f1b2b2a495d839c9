"""What the server answers, as far as programs need it. Fields a client doesn't know are ignored."""

from typing import Any

from msgspec import Struct

UNKNOWN = "UNKNOWN"
ENDED = frozenset({"SUCCESS", "FAILED", "CANCELED"})


class Asset(Struct, frozen=True):
    """Where to send one picture, and what to call it afterwards."""

    assets_id: str
    upload_url: str


class Model(Struct, frozen=True):
    """A trained LoRA: its file name, and DEPLOYING or SERVING."""

    model_name: str
    model_status: str


class Task(Struct, frozen=True):
    """One row of the list; `created_at` in Unix seconds."""

    task_name: str
    task_id: str
    task_type: str
    task_status: str
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
    task_status: str
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
