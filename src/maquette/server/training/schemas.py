"""The wire forms of training tasks."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from maquette.core.metrics import MetricsPoint
from maquette.core.specs import SampleSpec, TaskType, TrainingRequest, TrainingSettings
from maquette.server.bodies import WireBody

MODEL_TYPE = "lora"


class TrainingBody(WireBody[TrainingRequest]):
    """Takes what clients are known to send for a training."""

    @classmethod
    def tidy(cls, body: dict[str, Any]) -> None:
        """A prose table calls `train_batch_size` `batch_size`; some clients send empty components and arguments."""
        settings = body.get("expert_setting")
        if isinstance(settings, dict) and "batch_size" in settings:
            settings.setdefault("train_batch_size", settings["batch_size"])
        components = body.get("components")
        if isinstance(components, list):
            body["components"] = [one for one in components if not isinstance(one, dict) or "name" in one]
            for component in body["components"]:
                _drop_empty_arguments(component)


def _drop_empty_arguments(component: Any) -> None:
    if isinstance(component, dict) and isinstance(component.get("args"), list):
        component["args"] = [arg for arg in component["args"] if arg != {}]


class CreatedTask(Struct, frozen=True):
    """Answer to a create call."""

    task_id: str


class ModelEntry(Struct, frozen=True):
    """A trained LoRA: its file name, and DEPLOYING or SERVING."""

    model_name: str
    model_status: str


class StatusExtra(Struct, frozen=True):
    """Progress of a task: seconds left, whole percents done, and why it failed where it did."""

    eta_relative: int
    progress_percent: int
    failed_reason: str | UnsetType = UNSET


class TrainingStatus(Struct, frozen=True):
    """The published answer about one task."""

    task_id: str
    task_status: str
    model_type: str
    models: list[ModelEntry]
    extra: StatusExtra


class ListedTask(Struct, frozen=True):
    """One row of the published list; `created_at` in Unix seconds."""

    task_name: str
    task_id: str
    task_type: str
    task_status: str
    created_at: int
    models: list[ModelEntry]


class Pagination(Struct, frozen=True):
    """Where the next page begins; empty on an empty page."""

    next_cursor: str


class TaskList(Struct, frozen=True):
    """One page of the published list."""

    tasks: list[ListedTask]
    pagination: Pagination


class QueuePlace(Struct, frozen=True):
    """Where a waiting task stands among all that wait (1 is next), and what it waits for."""

    position: int
    waiting_for: str


class AttemptEntry(Struct, frozen=True, kw_only=True):
    """One execution of a task on a device; instants in Unix seconds, `reason` says why it ended."""

    attempt: int
    device: str
    started_at: int
    ended_at: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class PictureEntry(Struct, frozen=True):
    """One picture of a task as it is called in messages, with the caption it is trained with."""

    name: str
    sha256: str
    caption: str


class Distance(Struct, frozen=True):
    """How far two pictures are apart: mean and largest difference of their 8-bit channel values, 0..255."""

    mean: float
    largest: int


class ModelDetail(Struct, frozen=True, kw_only=True):
    """A task's model, and what the parity gate said of it.

    Attributes:
        verdict: pending, passed or rejected; a rejected model can't be drawn with.
        message: why it was rejected, or why it is not judged yet.
        from_sample: between what is drawn with it here and the sample that its trainer drew.
        from_base: between what is drawn with it here and without it.
        judged_at: Unix seconds.
        judged_with: the worker's kind of device and its libraries, the gate's bounds, and the base with the beginning
            of its hash; a rejected model is judged again by others.
    """

    model_name: str
    model_status: str
    verdict: str
    message: str
    from_sample: Distance | UnsetType = UNSET
    from_base: Distance | UnsetType = UNSET
    judged_at: int | UnsetType = UNSET
    judged_with: str | UnsetType = UNSET


class TaskDetail(Struct, frozen=True, kw_only=True):
    """Everything about one task.

    Attributes:
        reason, message: why it has its status, as a stable name and in words.
        progress_percent, step, total_steps, eta_seconds: how far the training is.
        metrics: what its last steps measured; once it has taken one.
        cancel_requested: whether its owner asked to cancel it.
        queue: only while it waits.
        model: once it has one.
        settings: what it runs with, every default filled in.
        sample: what its trainer draws at the end, and the parity gate draws again.
        width, height: pixels every picture is brought to.
    """

    task_name: str
    task_id: str
    task_type: TaskType
    task_status: str
    created_at: int
    models: list[ModelEntry]
    reason: str
    message: str
    progress_percent: int
    step: int
    total_steps: int
    eta_seconds: int
    metrics: MetricsPoint | UnsetType = UNSET
    cancel_requested: bool
    finished_at: int | UnsetType = UNSET
    queue: QueuePlace | UnsetType = UNSET
    model: ModelDetail | UnsetType = UNSET
    attempts: list[AttemptEntry]
    base_model: str
    width: int
    height: int
    settings: TrainingSettings
    sample: SampleSpec
    pictures: list[PictureEntry]


class CheckpointEntry(Struct, frozen=True, kw_only=True):
    """A checkpoint that is kept: the step after which it was taken, when (Unix seconds), and its LoRA's file.

    Attributes:
        size, sha256: of the LoRA's file, in bytes and as hex.
        samples: how many pictures were drawn with it.
    """

    step: int
    created_at: int
    size: int
    sha256: str
    samples: int


class CheckpointList(Struct, frozen=True):
    """A task's checkpoints, oldest first."""

    checkpoints: list[CheckpointEntry]


class CancelAnswer(Struct, frozen=True):
    """Answer to a cancel call: the status right now; TRAINING means that the training is being stopped."""

    task_id: str
    task_status: str


class EventEntry(Struct, frozen=True):
    """One line of a task's history; `created_at` in Unix seconds."""

    number: int
    kind: str
    created_at: float
    data: dict[str, Any]


class EventPage(Struct, frozen=True):
    """Events, oldest first; `next_after` asks for those that follow."""

    events: list[EventEntry]
    next_after: int
