"""The LoRA file: written, re-opened, verified."""

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from maquette.core.files import file_sha256
from maquette.core.lifecycle import Reason
from maquette.core.rundir import FileRecord
from maquette.core.specs import BaseRef, Preparation, SampleSpec, TaskType, TrainingSettings, TrainingSpec
from maquette.families.base import Adapters
from maquette.families.environment import library_versions
from maquette.families.lora_file import ZERO_TERMINAL_SNR
from maquette.trainer.failures import RunFailed
from maquette.trainer.tensors import read_tensors, write_tensors

PROVENANCE = "maquette"
"""Header entry of a LoRA file that holds its `Provenance`."""


class LearnedFrom(Struct, frozen=True):
    """One picture of the dataset, by its bytes' hash; names and ids stay out of the file."""

    sha256: str
    caption: str | None


class Provenance(Struct, frozen=True, kw_only=True):
    """Where a LoRA comes from: all that decided its bytes, and nothing that differs between equal runs."""

    task_type: TaskType
    base: BaseRef
    preparation: Preparation
    settings: TrainingSettings
    pictures: tuple[LearnedFrom, ...]
    sample: SampleSpec
    versions: dict[str, str]


def provenance(spec: TrainingSpec) -> Provenance:
    """The provenance of a LoRA trained by this spec with the installed libraries."""
    return Provenance(
        task_type=spec.task_type,
        base=spec.base,
        preparation=spec.preparation,
        settings=spec.settings,
        pictures=tuple(LearnedFrom(picture.sha256, picture.caption) for picture in spec.learned),
        sample=spec.sample,
        versions=library_versions(),
    )


def lora_header(adapters: Adapters, spec: TrainingSpec) -> dict[str, str]:
    """What the file of the attached LoRA says of itself: how it is to be loaded, and where it comes from."""
    return adapters.metadata() | _origin(spec)


def export_lora(path: Path, adapters: Adapters, spec: TrainingSpec) -> None:
    """Write the attached LoRA in diffusers layout and verify the file.

    Raises:
        RunFailed: a weight is not finite; nothing is written then.
        OSError: the file could not be written, or does not read back as written.
    """
    _write(path, adapters.parameters(), lora_header(adapters, spec))


def export_kohya(path: Path, adapters: Adapters, spec: TrainingSpec) -> None:
    """Write the attached LoRA as kohya's trainers do, for ComfyUI and the web interfaces, and verify the file.

    Raises:
        RunFailed, OSError: see `export_lora`.
    """
    _write(path, adapters.kohya(), _origin(spec))


@torch.no_grad()
def not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first weight that holds a number that is not finite, or None; all are on one device."""
    # Each one's largest number, which alone of the norms is finite wherever all numbers are; waited for once.
    largest = torch.stack(torch._foreach_norm([*weights.values()], math.inf)).tolist()
    return next((name for name, number in zip(weights, largest, strict=True) if not math.isfinite(number)), None)


def file_record(path: Path, root: Path) -> FileRecord:
    """A finished file as a manifest in `root` names it."""
    return FileRecord(path=path.relative_to(root).as_posix(), size=path.stat().st_size, sha256=file_sha256(path))


def _origin(spec: TrainingSpec) -> dict[str, str]:
    """Where it comes from and, in either layout, what to draw with it asks for."""
    drawn = {ZERO_TERMINAL_SNR: "True"} if spec.settings.zero_terminal_snr else {}
    return {"format": "pt", PROVENANCE: msgspec.json.encode(provenance(spec)).decode()} | drawn


def _write(path: Path, weights: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> None:
    if broken := not_finite(weights):
        raise RunFailed(Reason.DIVERGED, f"the trained weight {broken} is not finite; try a lower learning_rate")
    write_tensors(path, weights, dict(header))
    _verify(path, weights)


def _verify(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    written = read_tensors(path)
    if written.keys() != weights.keys() or not all(
        torch.equal(written[name], weight.detach().cpu()) for name, weight in weights.items()
    ):
        raise OSError(f"{path} does not hold the weights that were written to it")
