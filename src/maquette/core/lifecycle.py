"""The small state machines, drawn once: edges, reasons, and what each reason means.

`maquette.db.move` is the only code that writes a status, and it asks this module first. The picture of the
same knowledge is `docs/lifecycle.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)


class TaskStatus(StrEnum):
    """Status of a training task, exactly as published."""

    QUEUING = "QUEUING"
    TRAINING = "TRAINING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class ModelStatus(StrEnum):
    """Status of a trained model, exactly as published."""

    DEPLOYING = "DEPLOYING"
    SERVING = "SERVING"


class Reason(StrEnum):
    """Why a status changed. Statuses are few and published; reasons are ours and may grow."""

    CREATED = "created"
    DISPATCHED = "dispatched"
    FINISHED = "finished"
    CANCELED = "canceled"
    PARITY_PASSED = "parity_passed"
    # How an attempt may end without a verified result:
    BAD_DATASET = "bad_dataset"
    DIVERGED = "diverged"
    BASE_MISSING = "base_missing"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    WORKER_LOST = "worker_lost"
    STORAGE_AWAY = "storage_away"
    DRAINED = "drained"
    UNVERIFIED = "unverified"
    INTERNAL = "internal"


class FailureClass(StrEnum):
    """Whose turn it is after an attempt failed."""

    USER = "user"
    """Trying again would fail again: the task is FAILED at once."""
    RESOURCE = "resource"
    """The attempt asked for more than there was: one more try."""
    INFRASTRUCTURE = "infrastructure"
    """Not the task's fault: requeued with back-off, up to a cap."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The three answers to a failed attempt's reason.

    Attributes:
        failure_class: decides whether the task is requeued while attempts are left.
        attempts: how many attempts may end with this reason before the task is FAILED with it; counted anew from an
            attempt that stored a checkpoint, since a task that gets on is in no crash loop.
        words: what the user reads.
    """

    failure_class: FailureClass
    attempts: int
    words: str

    def retries_after(self, ended_so_far: int) -> bool:
        """Whether another attempt is due after `ended_so_far` of those that count ended with this reason."""
        return self.failure_class is not FailureClass.USER and ended_so_far < self.attempts

    @property
    def final_status(self) -> TaskStatus:
        """The status a task ends in when no retry is due: FAILED, whatever the reason."""
        return TaskStatus.FAILED


FAILURES: Mapping[Reason, Failure] = {
    Reason.BAD_DATASET: Failure(FailureClass.USER, 1, "A picture of the dataset could not be used."),
    Reason.DIVERGED: Failure(
        FailureClass.USER, 1, "The loss stopped being a finite number. Try a lower learning rate."
    ),
    Reason.BASE_MISSING: Failure(FailureClass.USER, 1, "The base model is no longer registered."),
    Reason.TIMED_OUT: Failure(FailureClass.USER, 1, "The task ran past its time limit."),
    Reason.OUT_OF_MEMORY: Failure(FailureClass.RESOURCE, 2, "The device ran out of memory."),
    Reason.DISK_FULL: Failure(FailureClass.RESOURCE, 2, "The trainer's disk is full."),
    Reason.WORKER_LOST: Failure(FailureClass.INFRASTRUCTURE, 5, "The training process was lost."),
    # As many as fit before any sensible deadline: what the store keeps back for a night, it may give in the morning.
    Reason.STORAGE_AWAY: Failure(
        FailureClass.INFRASTRUCTURE, 10_000, "The storage did not give out what the training needs."
    ),
    Reason.DRAINED: Failure(FailureClass.INFRASTRUCTURE, 5, "The training process was asked to make room."),
    Reason.UNVERIFIED: Failure(
        FailureClass.INFRASTRUCTURE, 3, "The training ended without a result that could be verified."
    ),
    Reason.INTERNAL: Failure(FailureClass.INFRASTRUCTURE, 3, "The trainer met an internal error."),
}

ATTEMPT_ENDED: frozenset[Reason] = frozenset(FAILURES)


class IllegalMove(Exception):
    """A move no edge allows; remembers where it was, where it was to go, and why."""

    def __init__(self, machine: str, source: str | None, target: str, reason: Reason) -> None:
        super().__init__(f"{machine}: no edge from {source or 'nothing'} to {target} for {reason}")
        self.source = source
        self.target = target
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Machine(Generic[S]):
    """One state machine.

    Attributes:
        name: what moves, as it is called in errors and events ("task", "model").
        edges: for each pair (from, to), the reasons that may move along it; from None means birth.
    """

    name: str
    edges: Mapping[tuple[S | None, S], frozenset[Reason]]

    def sources(self, target: S, reason: Reason) -> frozenset[S]:
        """The statuses from which `reason` may move to `target`: the guard of the one update statement.

        Raises:
            IllegalMove: no status may.
        """
        found = {source for (source, to), reasons in self.edges.items() if to == target and reason in reasons}
        if not found - {None}:
            raise IllegalMove(self.name, None, target, reason)
        return frozenset(source for source in found if source is not None)

    def check_birth(self, status: S, reason: Reason) -> None:
        """Assert that a row may be born in `status`.

        Raises:
            IllegalMove: it may not.
        """
        if reason not in self.edges.get((None, status), frozenset()):
            raise IllegalMove(self.name, None, status, reason)

    def is_final(self, status: S) -> bool:
        """Whether nothing ever leaves `status`."""
        return all(source != status for source, _ in self.edges)


TASK: Machine[TaskStatus] = Machine(
    "task",
    {
        (None, TaskStatus.QUEUING): frozenset({Reason.CREATED}),
        (TaskStatus.QUEUING, TaskStatus.TRAINING): frozenset({Reason.DISPATCHED}),
        (TaskStatus.QUEUING, TaskStatus.CANCELED): frozenset({Reason.CANCELED}),
        (TaskStatus.QUEUING, TaskStatus.FAILED): frozenset({Reason.TIMED_OUT, Reason.BASE_MISSING}),
        (TaskStatus.TRAINING, TaskStatus.SUCCESS): frozenset({Reason.FINISHED}),
        (TaskStatus.TRAINING, TaskStatus.QUEUING): frozenset(
            reason for reason, failure in FAILURES.items() if failure.failure_class is not FailureClass.USER
        ),
        (TaskStatus.TRAINING, TaskStatus.FAILED): ATTEMPT_ENDED,
        (TaskStatus.TRAINING, TaskStatus.CANCELED): frozenset({Reason.CANCELED}),
    },
)

AFTER_CANCEL: frozenset[TaskStatus] = frozenset({TaskStatus.SUCCESS, TaskStatus.CANCELED})
"""Where alone a task may go once its owner has asked to cancel it."""

MODEL: Machine[ModelStatus] = Machine(
    "model",
    {
        (None, ModelStatus.DEPLOYING): frozenset({Reason.CREATED}),
        (ModelStatus.DEPLOYING, ModelStatus.SERVING): frozenset({Reason.PARITY_PASSED}),
    },
)
