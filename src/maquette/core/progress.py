"""What a trainer says while it works: one JSON line each in `events.jsonl`.

Every message is a named type; the tag `type` is its wire name. Golden files pin the wire forms.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from maquette.core.findings import Finding
from maquette.core.lifecycle import Reason

DISK_FULL_EXIT = 3
"""Exit code of a trainer whose disk is so full that not even the message that says so has room."""


class Phase(StrEnum):
    """The stages of a run, in order."""

    PREPARE = "prepare"
    CACHE = "cache"
    TRAIN = "train"
    SAMPLE = "sample"
    EXPORT = "export"


class Message(Struct, frozen=True, tag_field="type", kw_only=True):
    """Base of all messages; `at` is Unix seconds on the trainer's clock, for people, never for decisions."""

    at: float


class Started(Message, frozen=True, tag="started"):
    """The trainer runs; `resumed_from` is the step of the newest checkpoint that it found, or None.

    Which one it goes on from it says once it has loaded it, see `Resumed`.
    """

    resumed_from: int | None
    versions: dict[str, str]


class Planned(Message, frozen=True, tag="plan"):
    """How the run is laid out in memory, decided before anything is loaded.

    Attributes:
        dtype: numbers that the denoiser works in.
        gradient_checkpointing, micro_batch, cuda_graphs: as in `families.memory.MemoryPlan`.
        parts_in_turn: whether parts of the base that are not at work wait in the host's memory.
        needed_bytes: what this should take.
        free_bytes: what was free.
        why: in words.
    """

    dtype: str
    gradient_checkpointing: bool
    micro_batch: int
    parts_in_turn: bool
    needed_bytes: int
    free_bytes: int
    why: str
    cuda_graphs: bool = False


class Resumed(Message, frozen=True, tag="resumed"):
    """A checkpoint was loaded, and its probe, the loss at fixed timesteps and noise, computed anew.

    Attributes:
        step: of the checkpoint; of the one before the first step it is told only where the two do not agree.
        verified: whether the two agree. If not, the checkpoint is dropped, and another one or none is resumed from;
            but one that records no probe is resumed from all the same.
        recorded: the probe when the checkpoint was taken; None where an older trainer took it, which recorded none.
        computed: the probe now.
    """

    step: int
    verified: bool
    recorded: float | None
    computed: float


class PhaseBegan(Message, frozen=True, tag="phase"):
    """A stage begins."""

    phase: Phase


class Note(Message, frozen=True, tag="note"):
    """Something worth telling the owner about the run; `picture` names a file or is None."""

    text: str
    picture: str | None = None


class Found(Message, frozen=True, tag="finding"):
    """Something about the pictures or captions that the owner should know before training is over."""

    finding: Finding


class Step(Message, frozen=True, tag="step"):
    """One optimiser step is done.

    Attributes:
        loss: this step's.
        lr: the rate it used.
        seconds: its duration.
        grad_norm: norm of the gradient before it was clipped.
        peak_bytes: most memory taken so far: of the device, or of the process where the device is the host.
    """

    step: int
    total_steps: int
    loss: float
    lr: float
    seconds: float
    grad_norm: float = 0.0
    peak_bytes: int = 0


class Validated(Message, frozen=True, tag="validation"):
    """The mean loss on pictures that are held out, at the same timesteps and noise every time."""

    step: int
    loss: float


class SteppedBack(Message, frozen=True, tag="stepped_back"):
    """The loss of step `diverged_at` ran away: the run goes on from the checkpoint of step `to`, at the rate `lr`."""

    diverged_at: int
    to: int
    lr: float
    why: str


class CheckpointSaved(Message, frozen=True, tag="checkpoint"):
    """A checkpoint is whole and verified in `checkpoints/step-<step>`."""

    step: int


class SamplesDrawn(Message, frozen=True, tag="samples"):
    """Samples lie beside the checkpoint of a step that was told before, and its `checkpoint.json` names them too."""

    step: int


class MemoryTaken(Message, frozen=True, tag="memory"):
    """The most memory that an attempt took, drawing included, beside what its plan said it would need, in bytes."""

    peak_bytes: int
    needed_bytes: int


class Failed(Message, frozen=True, tag="failed"):
    """The run can't go on; `reason` is one of the lifecycle's failures, `message` names what and where."""

    reason: Reason
    message: str


class Stopped(Message, frozen=True, tag="stopped"):
    """The trainer ended at a step boundary because it was asked to, or because nobody supervised it any more."""

    step: int


class Finished(Message, frozen=True, tag="finished"):
    """`manifest.json` is written."""


TrainerMessage: TypeAlias = (
    Started
    | Planned
    | PhaseBegan
    | Note
    | Found
    | Resumed
    | Step
    | Validated
    | SteppedBack
    | CheckpointSaved
    | SamplesDrawn
    | MemoryTaken
    | Failed
    | Stopped
    | Finished
)
