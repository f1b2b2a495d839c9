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


class Verdict(StrEnum):
    """What the parity gate said of a model. Ours alone: on the wire a rejected model is one that stays DEPLOYING."""

    PENDING = "pending"
    PASSED = "passed"
    REJECTED = "rejected"


class ImageStatus(StrEnum):
    """Status of an image task, exactly as published."""

    QUEUED = "TASK_STATUS_QUEUED"
    PROCESSING = "TASK_STATUS_PROCESSING"
    SUCCEED = "TASK_STATUS_SUCCEED"
    FAILED = "TASK_STATUS_FAILED"


class Reason(StrEnum):
    """Why a status changed. Statuses are few and published; reasons are ours and may grow."""

    CREATED = "created"
    DISPATCHED = "dispatched"
    FINISHED = "finished"
    CANCELED = "canceled"
    PARITY_PASSED = "parity_passed"
    TEST_MODE = "test_mode"
    RELEASED = "released"
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
    # How drawing may end without a picture, beside some of those above; a worker's are named as `core.drawing.Refusal`:
    MODEL_MISSING = "model_missing"
    ORIGINAL_MISSING = "original_missing"
    MODEL_REJECTED = "model_rejected"
    MODEL_NOT_READY = "model_not_ready"
    UNMATCHED_LORA = "unmatched_lora"
    BROKEN_LORA = "broken_lora"
    BROKEN_BASE = "broken_base"
    UNSUPPORTED = "unsupported"
    BAD_PICTURE = "bad_picture"
    NOT_FINITE = "not_finite"
    NOT_COPIED = "not_copied"


class FailureClass(StrEnum):
    """Whose turn it is after an attempt failed."""

    USER = "user"
    """Trying again would fail again: the task is FAILED at once."""
    RESOURCE = "resource"
    """The attempt asked for more than there was: one more try."""
    INFRASTRUCTURE = "infrastructure"
    """Not the task's fault: requeued with back-off, up to a cap."""


@dataclass(frozen=True, slots=True)
class Failure(Generic[S]):
    """The three answers to a failed attempt's reason.

    Attributes:
        final_status: where the row ends when no retry is due.
        failure_class: decides whether it is requeued while attempts are left.
        attempts: how many attempts may end with this reason before the row takes its final status with it. A training
            task counts anew from an attempt that stored a checkpoint, since one that gets on is in no crash loop.
        words: what the user reads.
    """

    final_status: S
    failure_class: FailureClass
    attempts: int
    words: str

    def retries_after(self, ended_so_far: int) -> bool:
        """Whether another attempt is due after `ended_so_far` of those that count ended with this reason."""
        return self.failure_class is not FailureClass.USER and ended_so_far < self.attempts


def _fault(status: S, words: str) -> Failure[S]:
    """A failure that another attempt would only repeat."""
    return Failure(status, FailureClass.USER, 1, words)


def _shortage(status: S, words: str) -> Failure[S]:
    """A failure for want of something, which there may be more of the next time."""
    return Failure(status, FailureClass.RESOURCE, 2, words)


def _mishap(status: S, attempts: int, words: str) -> Failure[S]:
    """A failure that has nothing to do with what was asked for."""
    return Failure(status, FailureClass.INFRASTRUCTURE, attempts, words)


UNTIL_THE_DEADLINE = 10_000
"""As many attempts as fit before any sensible deadline: what a store keeps back for a night, it may give in the
morning."""

FAILURES: Mapping[Reason, Failure[TaskStatus]] = {
    Reason.BAD_DATASET: _fault(TaskStatus.FAILED, "A picture of the dataset could not be used."),
    Reason.DIVERGED: _fault(
        TaskStatus.FAILED, "The training diverged, also at half the learning rate. Try a lower one."
    ),
    Reason.BASE_MISSING: _fault(TaskStatus.FAILED, "The base model is no longer registered."),
    Reason.BROKEN_BASE: _fault(TaskStatus.FAILED, "The base model can't be used."),
    Reason.UNSUPPORTED: _fault(TaskStatus.FAILED, "The base model can't be trained as was asked for."),
    Reason.TIMED_OUT: _fault(TaskStatus.FAILED, "The task ran past its time limit."),
    Reason.OUT_OF_MEMORY: _shortage(TaskStatus.FAILED, "The device ran out of memory."),
    Reason.DISK_FULL: _shortage(TaskStatus.FAILED, "The trainer's disk is full."),
    Reason.WORKER_LOST: _mishap(TaskStatus.FAILED, 5, "The training process was lost."),
    Reason.STORAGE_AWAY: _mishap(
        TaskStatus.FAILED, UNTIL_THE_DEADLINE, "The storage did not give out what the training needs."
    ),
    Reason.DRAINED: _mishap(TaskStatus.FAILED, 5, "The training process was asked to make room."),
    Reason.UNVERIFIED: _mishap(TaskStatus.FAILED, 3, "The training ended without a result that could be verified."),
    Reason.INTERNAL: _mishap(TaskStatus.FAILED, 3, "The trainer met an internal error."),
}
"""Why a training attempt may end without a result."""

ATTEMPT_ENDED: frozenset[Reason] = frozenset(FAILURES)

IMAGE_FAILURES: Mapping[Reason, Failure[ImageStatus]] = {
    Reason.BASE_MISSING: _fault(
        ImageStatus.FAILED, "A model that the request names is no longer registered, or another one by now."
    ),
    Reason.MODEL_MISSING: _fault(ImageStatus.FAILED, "A LoRA that the request names has been erased."),
    Reason.ORIGINAL_MISSING: _fault(ImageStatus.FAILED, "The picture to start from is gone."),
    Reason.MODEL_REJECTED: _fault(
        ImageStatus.FAILED, "A LoRA that the request names does not draw here as its trainer drew."
    ),
    Reason.MODEL_NOT_READY: _fault(ImageStatus.FAILED, "A LoRA that the request names was not ready in time."),
    Reason.TIMED_OUT: _fault(ImageStatus.FAILED, "The picture was not drawn in time."),
    Reason.UNMATCHED_LORA: _fault(ImageStatus.FAILED, "A LoRA does not fit the checkpoint."),
    Reason.BROKEN_LORA: _fault(ImageStatus.FAILED, "A LoRA's file can't be used."),
    Reason.BROKEN_BASE: _fault(ImageStatus.FAILED, "The checkpoint, or what the request adds to it, can't be loaded."),
    Reason.UNSUPPORTED: _fault(ImageStatus.FAILED, "The checkpoint's family does not do what was asked for."),
    Reason.BAD_PICTURE: _fault(ImageStatus.FAILED, "The picture to start from can't be decoded."),
    Reason.NOT_FINITE: _fault(ImageStatus.FAILED, "The picture came out as numbers that are not finite."),
    Reason.OUT_OF_MEMORY: _shortage(ImageStatus.FAILED, "The device ran out of memory."),
    Reason.WORKER_LOST: _mishap(ImageStatus.FAILED, 5, "The process that drew the picture was lost."),
    Reason.STORAGE_AWAY: _mishap(
        ImageStatus.FAILED, UNTIL_THE_DEADLINE, "The storage did not give out or take what drawing needs."
    ),
    Reason.NOT_COPIED: _shortage(
        ImageStatus.FAILED, "The pictures were drawn, but could not be copied to the bucket that the request names."
    ),
    Reason.DRAINED: _mishap(ImageStatus.FAILED, 5, "The process that drew the picture was asked to make room."),
    Reason.INTERNAL: _mishap(ImageStatus.FAILED, 3, "Drawing met an internal error."),
}
"""Why drawing may end without a picture."""


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
        name: what moves, as it is called in errors and events ("task", "model", "image task").
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

IMAGE: Machine[ImageStatus] = Machine(
    "image task",
    {
        (None, ImageStatus.QUEUED): frozenset({Reason.CREATED}),
        (ImageStatus.QUEUED, ImageStatus.PROCESSING): frozenset({Reason.DISPATCHED}),
        (ImageStatus.QUEUED, ImageStatus.SUCCEED): frozenset({Reason.TEST_MODE}),
        (ImageStatus.QUEUED, ImageStatus.FAILED): frozenset(
            {
                Reason.TIMED_OUT,
                Reason.BASE_MISSING,
                Reason.MODEL_MISSING,
                Reason.MODEL_REJECTED,
                Reason.MODEL_NOT_READY,
                Reason.TEST_MODE,
            }
        ),
        (ImageStatus.PROCESSING, ImageStatus.SUCCEED): frozenset({Reason.FINISHED}),
        # Whoever releases a task has not tried it, or stops: that is no failure, and is not counted.
        (ImageStatus.PROCESSING, ImageStatus.QUEUED): frozenset({Reason.RELEASED}).union(
            reason for reason, failure in IMAGE_FAILURES.items() if failure.failure_class is not FailureClass.USER
        ),
        (ImageStatus.PROCESSING, ImageStatus.FAILED): frozenset(IMAGE_FAILURES),
    },
)
