"""What memory there is, what was taken of it, and the plan that goes between."""

import resource
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from maquette.core.lifecycle import Reason
from maquette.core.progress import MemoryTaken, Planned
from maquette.core.weights import BrokenWeights
from maquette.families.base import Part, Pipeline
from maquette.families.memory import (
    MemoryModel,
    MemoryPlan,
    NothingLeaner,
    Sizes,
    choose,
    fits,
    layout_of,
    measure_sizes,
    share,
)
from maquette.families.out_of_memory import is_out_of_memory
from maquette.families.precision import weight_dtype
from maquette.trainer.attempt import Attempt
from maquette.trainer.failures import RunFailed

MEMINFO = Path("/proc/meminfo")
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
GROUP_USE = Path("/sys/fs/cgroup/memory.current")
OWN_STATUS = Path("/proc/self/status")


def plan_run(attempt: Attempt, model: MemoryModel, device: torch.device) -> MemoryPlan:
    """Choose how the run is laid out, before anything is loaded, and tell.

    Raises:
        RunFailed: an earlier attempt ran out of memory with the leanest plan that there is.
    """
    spec, free = attempt.spec, free_bytes(device)
    dtype = weight_dtype(device)
    sizes = _sizes(Path(spec.base_path), model)
    layout = layout_of(
        spec.training,
        model,
        sizes,
        weight_bytes=dtype.itemsize,
        on_host=device.type == "cpu",
        graphs=device.type == "cuda",
    )
    try:
        plan = choose(layout, free, leaner=spec.leaner)
    except NothingLeaner as error:
        raise RunFailed(
            Reason.OUT_OF_MEMORY,
            f"{device} ran out of memory in an earlier attempt, and none can be leaner: {error};"
            " train with smaller pictures or a lower lora_r, or on a larger device",
        ) from error
    attempt.reporter.say(
        Planned(
            at=time.time(),
            dtype=str(dtype).removeprefix("torch."),
            gradient_checkpointing=plan.gradient_checkpointing,
            micro_batch=plan.micro_batch,
            parts_in_turn=not plan.together,
            cuda_graphs=plan.cuda_graphs,
            needed_bytes=plan.needed,
            free_bytes=free,
            why=_why(plan, free, layout.rows, spec.leaner),
        )
    )
    return plan


def recompute_activations(pipeline: Pipeline) -> None:
    """Have the denoiser compute activations again in the backward pass instead of keeping them."""
    for module in pipeline.modules[Part.DENOISER]:
        denoiser: Any = module
        denoiser.enable_gradient_checkpointing(_recomputed)


def _recomputed(module: torch.nn.Module, *arguments: Any) -> Any:
    # Nothing in a frozen base is drawn by chance, so no state of chance need be kept to do it again.
    return checkpoint(module, *arguments, use_reentrant=False, preserve_rng_state=False)


class PeakMeter:
    """The most memory taken since the meter was made: of the device, or of this process where that is the host."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._before = _resident("VmRSS")

    @property
    def bytes(self) -> int:
        """The most so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(0, _resident("VmHWM") - self._before)


@contextmanager
def peak_told(attempt: Attempt, plan: MemoryPlan, device: torch.device) -> Generator[PeakMeter]:
    """Measure what is taken from here on, and tell at the end, also of an attempt that fails."""
    meter = PeakMeter(device)
    try:
        yield meter
    finally:
        attempt.reporter.say(MemoryTaken(at=time.time(), peak_bytes=meter.bytes, needed_bytes=plan.needed))


def free_bytes(device: torch.device) -> int:
    """What a run may take: of the device, or of the host as far as the process's control group and limit allow."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_available(), _left_in_group(), _left_by_limit())


@contextmanager
def memory_errors(device: torch.device) -> Generator[None]:
    """Tell an allocation that failed from other errors.

    Raises:
        RunFailed: memory ran out; where the device is a GPU and where it is the host alike.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunFailed(Reason.OUT_OF_MEMORY, f"{device} ran out of memory: {error}") from error


def _sizes(base: Path, model: MemoryModel) -> Sizes:
    """The base's; the published ones' where its files can't be read, which loading will say better."""
    try:
        return measure_sizes(base, model)
    except (OSError, BrokenWeights):
        return model.published_sizes


def _why(plan: MemoryPlan, free: int, rows: int, leaner: int) -> str:
    said = [share(plan, free)]
    if not fits(plan, free):
        said.append("which is too much by that estimate, and tried all the same, since no plan takes less")
    if leaner:
        said.append("leaner than must be by that estimate, since an earlier attempt ran out of memory")
    if plan.cuda_graphs:
        said.append("steps are replayed as CUDA graphs")
    if not plan.together:
        said.append("parts of the base take turns")
    if plan.gradient_checkpointing:
        said.append("activations are computed twice")
    if plan.micro_batch < rows:
        said.append(f"{plan.micro_batch} of a step's {rows} pictures at once")
    return "; ".join(said)


def _available() -> int:
    return _kilobytes(MEMINFO, "MemAvailable") * 1024


def _left_in_group() -> int:
    try:
        limit = GROUP_LIMIT.read_text().strip()
        return int(limit) - int(GROUP_USE.read_text()) if limit != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62


def _left_by_limit() -> int:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return 1 << 62 if limit == resource.RLIM_INFINITY else max(0, limit - _resident("VmSize"))


def _resident(entry: str) -> int:
    return _kilobytes(OWN_STATUS, entry) * 1024


def _kilobytes(table: Path, entry: str) -> int:
    """An entry of one of the kernel's tables; 0 where there is none."""
    for line in table.read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1])
    return 0
