"""What a trainer says while it works: one JSON line each in `events.jsonl`.

Every message is a named type; the tag `type` is its wire name. Golden files pin the wire forms.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from maquette.core.findings import Finding
from maquette.core.lifecycle import Reason


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
    """The trainer runs; `resumed_from` is the step of the checkpoint it continues, or None."""

    resumed_from: int | None
    versions: dict[str, str]


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
    """One optimiser step is done. `loss` is this step's, `lr` the rate it used, `seconds` its duration."""

    step: int
    total_steps: int
    loss: float
    lr: float
    seconds: float


class CheckpointSaved(Message, frozen=True, tag="checkpoint"):
    """A checkpoint is whole and verified in `checkpoints/step-<step>`."""

    step: int


class Failed(Message, frozen=True, tag="failed"):
    """The run can't go on; `reason` is one of the lifecycle's failures, `message` names what and where."""

    reason: Reason
    message: str


class Stopped(Message, frozen=True, tag="stopped"):
    """The trainer ended at a step boundary because it was asked to, or because nobody supervised it any more."""

    step: int


class Finished(Message, frozen=True, tag="finished"):
    """`manifest.json` is written."""


TrainerMessage: TypeAlias = Started | PhaseBegan | Note | Found | Step | CheckpointSaved | Failed | Stopped | Finished
