"""Checkpoints: everything a run needs to end with the same bytes as if it had never been interrupted.

A checkpoint is a directory of safetensors, JSON and pictures, no pickle; its LoRA is a file that others can load. It is
written under a temporary name, read back, and only then takes its own name; older ones go after that.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from PIL import Image
from torch.optim.lr_scheduler import LambdaLR

from maquette.core.files import file_sha256, fsync_directory, write_atomic
from maquette.core.ids import sha256_hex
from maquette.core.metrics import RECENT_LOSSES
from maquette.core.rundir import (
    CHECKPOINT_LORA,
    CHECKPOINT_MANIFEST,
    CHECKPOINT_SAMPLE,
    CheckpointManifest,
    FileRecord,
    RunDirectory,
    stays,
)
from maquette.core.specs import TrainingSpec, pinned_form
from maquette.families.pixels import write_png
from maquette.trainer.optim import AnyOptimizer, restore_schedule, scalars
from maquette.trainer.randomness import Randomness
from maquette.trainer.tensors import read_tensors, write_tensors

OPTIMIZER = "optimizer.safetensors"
RANDOMNESS = "randomness.safetensors"
PROGRESS = "progress.json"
PARTIAL = ".partial-"


class Progress(Struct, kw_only=True):
    """`progress.json`: what of a run is no tensor. What has a default here is missing in checkpoints of older trainers.

    Attributes:
        spec_sha256: of the training spec; a checkpoint of another spec is no checkpoint of this run.
        step: optimiser steps done.
        losses: of the last steps, oldest first.
        lr_scheduler: state of the learning-rate schedule.
        optimizer: what the optimiser knows besides tensors and rate.
        base_loss, diverged_at: as in `TrainingState`.
        probe: the loss at fixed timesteps and noise, to be computed again when the checkpoint is loaded.
    """

    spec_sha256: str
    step: int
    losses: list[float]
    lr_scheduler: dict[str, Any]
    optimizer: dict[str, float] = {}
    base_loss: float | None = None
    diverged_at: int | None = None
    probe: float | None = None


@dataclass
class TrainingState:
    """Everything of a run that changes from step to step.

    Attributes:
        parameters: the LoRA's weights by name.
        step: optimiser steps done.
        losses: of the last steps, oldest first.
        base_loss: what the base alone loses on what is trained on; None in runs that an older trainer began.
        diverged_at: the step at which the run diverged and was taken back, or None.
    """

    parameters: dict[str, torch.nn.Parameter]
    optimizer: AnyOptimizer
    lr_scheduler: LambdaLR
    randomness: Randomness
    step: int = 0
    losses: list[float] = field(default_factory=list)
    base_loss: float | None = None
    diverged_at: int | None = None

    def advance(self, loss: float) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a checkpoint holds besides the state.

    Attributes:
        header: of the LoRA's file.
        probe: see `Progress`.
    """

    header: Mapping[str, str]
    probe: float


def save(
    directory: RunDirectory, state: TrainingState, spec: TrainingSpec, extras: Extras, *, keep_every: int = 0
) -> None:
    """Write and verify the checkpoint of the state's step, then drop those before it that need not stay.

    What lies ahead of the state is damaged, or the run would have gone on from it: it keeps nobody's place.

    Args:
        keep_every: see `core.rundir.stays`.

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
    _write_parts(partial, state, spec, extras)
    _write_manifest(partial, state.step, [_record(file) for file in sorted(partial.iterdir())])
    _check_reads_back(partial, state)
    partial.rename(target)
    fsync_directory(directory.checkpoints)
    _drop_old(directory, target, keep_every)


def add_samples(directory: RunDirectory, step: int, samples: Sequence[Image.Image]) -> None:
    """Put pictures that were drawn with a whole checkpoint's LoRA beside it; it is whole at any moment.

    Raises:
        OSError: they could not be written.
    """
    folder = directory.checkpoint(step)
    paths = [folder / CHECKPOINT_SAMPLE.format(index) for index in range(len(samples))]
    for path, picture in zip(paths, samples, strict=True):
        write_png(path, picture)
    others = [record for record in _manifest(folder).files if folder / record.path not in paths]
    _write_manifest(folder, step, [*others, *map(_record, paths)])


def newest(directory: RunDirectory, spec: TrainingSpec) -> Path | None:
    """The newest whole checkpoint of this spec, or None."""
    return next(whole(directory, spec), None)


def whole(directory: RunDirectory, spec: TrainingSpec) -> Iterator[Path]:
    """The whole checkpoints of this spec, newest first."""
    digest = spec_sha256(spec)
    for path in reversed(_steps(directory)):
        if _is_whole(path) and _is_of(path, digest):
            yield path


def drop(path: Path) -> None:
    """Delete a checkpoint that turned out not to be what it claims."""
    shutil.rmtree(path)


def step_of(path: Path) -> int:
    """The step after which a whole checkpoint was taken."""
    return _progress(path).step


def probe_of(path: Path) -> float | None:
    """The probe recorded in a whole checkpoint; None where an older trainer took it."""
    return _progress(path).probe


def restore_lora(path: Path, state: TrainingState) -> None:
    """Put a whole checkpoint's LoRA, and nothing else of it, in place of a state's."""
    with torch.no_grad():
        for name, tensor in read_tensors(path / CHECKPOINT_LORA).items():
            state.parameters[name].copy_(tensor)


def restore(path: Path, state: TrainingState) -> None:
    """Put a whole checkpoint's content in place of a state's, be that fresh or further on."""
    progress = _progress(path)
    restore_lora(path, state)
    state.optimizer.zero_grad()
    state.optimizer.state.clear()
    for key, tensor in read_tensors(path / OPTIMIZER).items():
        name, _, entry = key.rpartition(".")
        parameter = state.parameters[name]
        state.optimizer.state[parameter][entry] = tensor.to(parameter.device)
    state.randomness.restore(read_tensors(path / RANDOMNESS))
    restore_schedule(state.lr_scheduler, progress.lr_scheduler)
    state.optimizer.param_groups[0].update(progress.optimizer)
    state.step, state.losses = progress.step, progress.losses
    state.base_loss, state.diverged_at = progress.base_loss, progress.diverged_at


def _write_parts(folder: Path, state: TrainingState, spec: TrainingSpec, extras: Extras) -> None:
    write_tensors(folder / CHECKPOINT_LORA, state.parameters, dict(extras.header))
    write_tensors(folder / OPTIMIZER, _optimizer_tensors(state))
    write_tensors(folder / RANDOMNESS, state.randomness.tensors())
    progress = Progress(
        spec_sha256=spec_sha256(spec),
        step=state.step,
        losses=state.losses,
        lr_scheduler=state.lr_scheduler.state_dict(),
        optimizer=scalars(state.optimizer),
        base_loss=state.base_loss,
        diverged_at=state.diverged_at,
        probe=extras.probe,
    )
    write_atomic(folder / PROGRESS, msgspec.json.encode(progress))


def _write_manifest(folder: Path, step: int, records: Sequence[FileRecord]) -> None:
    manifest = CheckpointManifest(step=step, files=tuple(records))
    write_atomic(folder / CHECKPOINT_MANIFEST, msgspec.json.encode(manifest))


def _optimizer_tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{entry}": tensor
        for name, parameter in state.parameters.items()
        for entry, tensor in state.optimizer.state.get(parameter, {}).items()
    }


def _check_reads_back(folder: Path, state: TrainingState) -> None:
    saved = read_tensors(folder / CHECKPOINT_LORA)
    same = saved.keys() == state.parameters.keys() and all(
        torch.equal(saved[name], parameter.detach().cpu()) for name, parameter in state.parameters.items()
    )
    if not same or not _is_whole(folder):
        raise OSError(f"the checkpoint in {folder} does not read back as it was written")


def _drop_old(directory: RunDirectory, newest: Path, keep_every: int) -> None:
    found = _steps(directory)
    upto = [path for path in reversed(found) if path <= newest]
    kept = {path for newer, path in enumerate(upto) if stays(_step_in_name(path), newer, keep_every)}
    for path in found:
        if path not in kept:
            shutil.rmtree(path)


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint's manifest is there and every file it names is as it says."""
    try:
        return all(_record(folder / record.path) == record for record in _manifest(folder).files)
    except (OSError, msgspec.DecodeError):
        return False


def _is_of(folder: Path, digest: str) -> bool:
    """Whether a whole checkpoint is of the spec of this hash, as this version of Maquette writes them."""
    try:
        return _progress(folder).spec_sha256 == digest
    except (OSError, msgspec.DecodeError):
        return False


def _manifest(folder: Path) -> CheckpointManifest:
    return msgspec.json.decode((folder / CHECKPOINT_MANIFEST).read_bytes(), type=CheckpointManifest)


def _record(path: Path) -> FileRecord:
    return FileRecord(path=path.name, size=path.stat().st_size, sha256=file_sha256(path))


def _progress(folder: Path) -> Progress:
    return msgspec.json.decode((folder / PROGRESS).read_bytes(), type=Progress)


def _steps(directory: RunDirectory) -> list[Path]:
    """Checkpoint directories, oldest first, whole or not."""
    return sorted(directory.checkpoints.glob("step-*"))


def _step_in_name(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
