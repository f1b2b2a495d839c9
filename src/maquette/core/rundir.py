"""The run directory: the files through which a trainer and its executor talk, one directory per attempt.

Every name stands here and nowhere else. Every file appears whole (temporary file, fsync, rename), except
`events.jsonl` and `trainer.log`, which grow; a reader of events takes only lines that are finished.
"""

from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from maquette.core.files import write_atomic
from maquette.core.specs import TrainingSpec
from maquette.core.weights import LoraLayout

Message = TypeVar("Message")

DEFAULT_CACHE_BYTES = 4 << 30


class RunSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`spec.json`: everything a trainer is told.

    Attributes:
        task_id, fence: which attempt this is; they name it in messages and decide nothing.
        name: what the task's owner calls it; decides nothing either, but in a sandbox (`core.rehearsal`).
        training: what decides the LoRA's bytes.
        base_path: the base model's folder in diffusers layout, as this node sees it.
        device: torch device string.
        checkpoint_every: optimiser steps between checkpoints.
        keep_every: a checkpoint stays for good when its step is a multiple of this; 0 keeps none so.
        leaner: how many earlier attempts of the task ran out of memory; this one plans with that much less.
        abandon_after: seconds without a sign of its supervisor (`heartbeat`) after which a trainer stops by itself.
        step_delay: seconds to sleep after each optimiser step; a throttle for machines shared with other work.
        cache_path: folder that the trainers of one tenant share for encoded pictures and prompts; empty is the run's
            own `cache/`.
        cache_bytes: what that folder may hold; 0 keeps nothing.
        face_detector: file of a YuNet model; empty is the detector that OpenCV ships.
    """

    task_id: str
    fence: int
    training: TrainingSpec
    base_path: str
    name: str = ""
    device: str = "cpu"
    checkpoint_every: int = 100
    keep_every: int = 0
    leaner: int = 0
    abandon_after: float = 600.0
    step_delay: float = 0.0
    cache_path: str = ""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    face_detector: str = ""


class ProcessRecord(Struct, frozen=True):
    """`process.json`: who runs here. A pid alone may be somebody else's after a reboot or a wrap-around.

    Attributes:
        pid: process id, also the process group's id.
        start_ticks: the process's start time in clock ticks since boot (field 22 of /proc/<pid>/stat).
        boot_id: the kernel's random id of this boot.
    """

    pid: int
    start_ticks: int
    boot_id: str


class FileRecord(Struct, frozen=True):
    """One file named by a manifest: path relative to the directory that holds the manifest, size in bytes, hash."""

    path: str
    size: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """`manifest.json`, the last file a successful trainer writes.

    Attributes:
        weights: the LoRA.
        kohya: the LoRA once more, in kohya's layout; None where an earlier version trained.
        sample: the picture drawn at the end.
        finished_at: Unix seconds; part of the model's published name.
        steps: optimiser steps done.
        final_loss: mean loss of the last steps.
    """

    weights: FileRecord
    kohya: FileRecord | None = None
    sample: FileRecord
    finished_at: int
    steps: int
    final_loss: float

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file that it names."""
        return (self.weights, self.sample, *([self.kohya] if self.kohya else []))


class CheckpointManifest(Struct, frozen=True, kw_only=True):
    """`checkpoint.json` in a checkpoint's directory, written last: the step and every file beside it."""

    step: int
    files: tuple[FileRecord, ...]


class RunDirectory:
    """Names and whole-file access for one attempt's directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        """Locked by the executor while it prepares, then by the trainer and its forks until the last has ended."""
        self.plan = root / "plan.json"
        """The executor's own note of what it was asked for; a trainer never reads it."""
        self.spec = root / "spec.json"
        self.process = root / "process.json"
        self.images = root / "images"
        self.cache = root / "cache"
        self.checkpoints = root / "checkpoints"
        self.samples = root / "samples"
        self.output = root / "output"
        self.events = root / "events.jsonl"
        self.log = root / "trainer.log"
        self.stop = root / "stop"
        self.heartbeat = root / "heartbeat"
        self.manifest = root / "manifest.json"

    def create(self) -> None:
        """Make the directory and its parts; harmless where they exist."""
        for directory in (self.root, self.images, self.cache, self.checkpoints, self.samples, self.output):
            directory.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint taken after `step` optimiser steps."""
        return self.checkpoints / f"step-{step:06d}"

    def write(self, path: Path, message: object) -> None:
        """Write a message as JSON, whole or not at all."""
        write_atomic(path, msgspec.json.encode(message))

    def read(self, path: Path, kind: type[Message]) -> Message | None:
        """Read a message, or None where its file does not exist.

        Raises:
            msgspec.ValidationError: the file is not such a message.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(data, type=kind)


LORA_FILES = {LoraLayout.DIFFUSERS: "lora.safetensors", LoraLayout.KOHYA: "lora-kohya.safetensors"}
"""Names of a finished LoRA's files, side by side in `output`."""

CHECKPOINT_MANIFEST = "checkpoint.json"
"""Name of `CheckpointManifest` inside a checkpoint's directory."""
CHECKPOINT_LORA = "adapter.safetensors"
"""Name of the LoRA inside it: a file like the one that a finished run exports."""
CHECKPOINT_SAMPLE = "sample-{}.png"
"""Name of a picture drawn with it, by its place among `TrainingSpec.checkpoint_samples`."""
KEPT_CHECKPOINTS = 2
"""How many of the newest stay: the newest, and one more in case its disk lied."""


def stays(step: int, newer: int, keep_every: int) -> bool:
    """Whether a checkpoint is kept that has `newer` ones after it: one of the last two, or of a `keep_every`th step.

    The one before the first step is no LoRA that anybody wants, so it is not kept for good.
    """
    return newer < KEPT_CHECKPOINTS or (keep_every > 0 and step > 0 and step % keep_every == 0)
