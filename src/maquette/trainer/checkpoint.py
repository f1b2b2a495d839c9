"""Checkpoints: everything a run needs to end with the same bytes as if it had never been interrupted.

A checkpoint is a directory of safetensors and JSON, no pickle. It is written under a temporary name, read back,
and only then takes its own name; older ones go after that.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from maquette.core.files import file_sha256, fsync_directory, write_atomic
from maquette.core.ids import sha256_hex
from maquette.core.rundir import CHECKPOINT_MANIFEST, CheckpointManifest, FileRecord, RunDirectory
from maquette.core.specs import TrainingSpec, pinned_form
from maquette.trainer.randomness import Randomness
from maquette.trainer.tensors import read_tensors, write_tensors

KEPT = 2
"""Checkpoints that stay: the newest, and one more in case its disk lied."""

ADAPTER = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOMNESS = "randomness.safetensors"
PROGRESS = "progress.json"
PARTIAL = ".partial-"
RECENT_LOSSES = 50


class Progress(Struct, kw_only=True):
    """`progress.json`: what of a run is no tensor.

    Attributes:
        spec_sha256: of the training spec; a checkpoint of another spec is no checkpoint of this run.
        step: optimiser steps done.
        losses: of the last steps, oldest first.
        lr_scheduler: state of the learning-rate schedule.
    """

    spec_sha256: str
    step: int
    losses: list[float]
    lr_scheduler: dict[str, Any]


@dataclass
class TrainingState:
    """Everything of a run that changes from step to step.

    Attributes:
        parameters: the LoRA's weights by name.
        step: optimiser steps done.
        losses: of the last steps, oldest first.
    """

    parameters: dict[str, torch.nn.Parameter]
    optimizer: AdamW
    lr_scheduler: LambdaLR
    randomness: Randomness
    step: int = 0
    losses: list[float] = field(default_factory=list)

    def record(self, loss: float) -> None:
        """Count a step that is done."""
        self.step += 1
        self.losses = [*self.losses, loss][-RECENT_LOSSES:]

    @property
    def recent_loss(self) -> float:
        """Mean loss of the last steps."""
        return sum(self.losses) / len(self.losses)


def spec_sha256(spec: TrainingSpec) -> str:
    """Hash of a training spec."""
    return sha256_hex(pinned_form(spec))


def save(directory: RunDirectory, state: TrainingState, spec: TrainingSpec) -> None:
    """Write and verify the checkpoint of the state's step, then drop all but the newest two up to there.

    What lies ahead of the state is damaged, or the run would have gone on from it: it keeps nobody's place.

    Raises:
        OSError: it could not be written, or does not read back as written; the older ones are still there.
    """
    target = directory.checkpoint(state.step)
    if _is_whole(target):
        return
    partial = directory.checkpoints / f"{PARTIAL}{target.name}"
    for leftover in (partial, target):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    _write_parts(partial, state, spec)
    records = tuple(_record(file) for file in sorted(partial.iterdir()))
    write_atomic(partial / CHECKPOINT_MANIFEST, msgspec.json.encode(CheckpointManifest(step=state.step, files=records)))
    _check_reads_back(partial, state)
    partial.rename(target)
    fsync_directory(directory.checkpoints)
    found = _steps(directory)
    kept = [path for path in found if path <= target][-KEPT:]
    for path in found:
        if path not in kept:
            shutil.rmtree(path)


def newest(directory: RunDirectory, spec: TrainingSpec) -> Path | None:
    """The newest whole checkpoint of this spec, or None."""
    digest = spec_sha256(spec)
    for path in reversed(_steps(directory)):
        if _is_whole(path) and _is_of(path, digest):
            return path
    return None


def step_of(path: Path) -> int:
    """The step after which a whole checkpoint was taken."""
    return _progress(path).step


def restore(path: Path, state: TrainingState) -> None:
    """Put a whole checkpoint's content in place of a fresh state's."""
    progress = _progress(path)
    with torch.no_grad():
        for name, tensor in read_tensors(path / ADAPTER).items():
            state.parameters[name].copy_(tensor)
    for key, tensor in read_tensors(path / OPTIMIZER).items():
        name, _, entry = key.rpartition(".")
        parameter = state.parameters[name]
        state.optimizer.state[parameter][entry] = tensor.to(parameter.device)
    state.randomness.restore(read_tensors(path / RANDOMNESS))
    state.lr_scheduler.load_state_dict(progress.lr_scheduler)
    for group, lr in zip(state.optimizer.param_groups, state.lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = lr
    state.step, state.losses = progress.step, progress.losses


def _write_parts(folder: Path, state: TrainingState, spec: TrainingSpec) -> None:
    write_tensors(folder / ADAPTER, state.parameters)
    write_tensors(folder / OPTIMIZER, _optimizer_tensors(state))
    write_tensors(folder / RANDOMNESS, state.randomness.tensors())
    progress = Progress(
        spec_sha256=spec_sha256(spec),
        step=state.step,
        losses=state.losses,
        lr_scheduler=state.lr_scheduler.state_dict(),
    )
    write_atomic(folder / PROGRESS, msgspec.json.encode(progress))


def _optimizer_tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{entry}": tensor
        for name, parameter in state.parameters.items()
        for entry, tensor in state.optimizer.state[parameter].items()
    }


def _check_reads_back(folder: Path, state: TrainingState) -> None:
    saved = read_tensors(folder / ADAPTER)
    same = saved.keys() == state.parameters.keys() and all(
        torch.equal(saved[name], parameter.detach().cpu()) for name, parameter in state.parameters.items()
    )
    if not same or not _is_whole(folder):
        raise OSError(f"the checkpoint in {folder} does not read back as it was written")


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint's manifest is there and every file it names is as it says."""
    try:
        manifest = msgspec.json.decode((folder / CHECKPOINT_MANIFEST).read_bytes(), type=CheckpointManifest)
        return all(_record(folder / record.path) == record for record in manifest.files)
    except (OSError, msgspec.DecodeError):
        return False


def _is_of(folder: Path, digest: str) -> bool:
    """Whether a whole checkpoint is of the spec of this hash, as this version of Maquette writes them."""
    try:
        return _progress(folder).spec_sha256 == digest
    except (OSError, msgspec.DecodeError):
        return False


def _record(path: Path) -> FileRecord:
    return FileRecord(path=path.name, size=path.stat().st_size, sha256=file_sha256(path))


def _progress(folder: Path) -> Progress:
    return msgspec.json.decode((folder / PROGRESS).read_bytes(), type=Progress)


def _steps(directory: RunDirectory) -> list[Path]:
    """Checkpoint directories, oldest first, whole or not."""
    return sorted(directory.checkpoints.glob("step-*"))
