"""The serving port: a pool of inference workers that draw and compare.

A pool owns its workers: it starts, watches and replaces them. What a job needs lies in storage under keys; the pool
stages it to where its workers are. The server never opens a worker's socket or files.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from maquette.core.drawing import BaseUse, Difference, DrawRequest, Refusal
from maquette.core.picture_format import PictureFormat

PROGRAM = ("-m", "maquette.inference")
"""Python's arguments that mean the inference worker."""
DEVICE = "device"
"""What the kind of device is called among versions."""


class StoredLora(Struct, frozen=True, kw_only=True):
    """A LoRA in storage, its content's hash (hex SHA-256), and how strongly it acts (1.0 is as trained)."""

    key: str
    sha256: str
    strength: float = 1.0


class DrawJob(Struct, frozen=True, kw_only=True):
    """One picture.

    Attributes:
        base: its folder as every node sees it.
        request: without `loras`; those are fetched from storage.
        loras: added to the base for this picture alone.
        format: of the picture's file.
    """

    base: BaseUse
    request: DrawRequest
    loras: tuple[StoredLora, ...] = ()
    format: PictureFormat = PictureFormat.PNG


class CompareJob(Struct, frozen=True, kw_only=True):
    """A trained LoRA against the sample (a PNG under `sample_key`) that its trainer drew from the same request."""

    base: BaseUse
    request: DrawRequest
    lora: StoredLora
    sample_key: str


class Comparison(Struct, frozen=True, kw_only=True):
    """What a comparison measured.

    Attributes:
        from_sample: between the worker's picture and the trainer's.
        from_base: between the worker's picture with the LoRA and without it.
        versions: of what drew; see `Pool.versions`.
    """

    from_sample: Difference
    from_base: Difference
    versions: dict[str, str]


class PoolSettings(Struct, frozen=True, kw_only=True):
    """What an operator decides for every pool.

    Attributes:
        threads: computing threads of one worker.
        lora_bytes: bytes of LoRAs that one worker keeps in memory.
        bases: bases that one worker keeps in memory.
        staged_bytes: bytes of LoRA files kept on a node's disk.
        longest_wait: seconds a job may be passed over for others that suit what a worker has loaded.
        overdue_slice: one that has waited longer gives way to fewer than so many younger ones.
        start_timeout: seconds a worker may take until it is ready.
        silence_timeout: seconds a worker that draws may say nothing, loading a base included, before it is replaced.
        program: Python's arguments that mean the worker.
    """

    threads: int
    lora_bytes: int = 1 << 30
    bases: int = 1
    staged_bytes: int = 8 << 30
    longest_wait: float = 30.0
    overdue_slice: int = 16
    start_timeout: float = 300.0
    silence_timeout: float = 300.0
    program: tuple[str, ...] = PROGRAM


class PoolState(Struct, frozen=True, kw_only=True):
    """How a pool is doing.

    Attributes:
        workers: those there should be.
        ready: those that draw or could.
        drawing: those that draw.
        waiting: jobs that no worker has begun, those whose LoRAs are being fetched among them.
    """

    workers: int
    ready: int
    drawing: int
    waiting: int


class JobRefused(Exception):
    """A job was not carried out, and would not be the next time; the message says why."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class WorkerLost(Exception):
    """The worker that had the job is gone; it may be given again."""


OnStep = Callable[[int, int], None]
"""Called with the denoising steps done and all there are; the first call says that a worker has begun."""


class Pool(Protocol):
    """Workers that draw. Implementations pass `tests/contract/test_pools.py`.

    Jobs wait inside the pool, also while no worker can be started. A free worker takes the one whose base and LoRAs it
    has loaded, and once one has waited longer than a bound, only among the oldest. A caller that is cancelled takes its
    job back; a worker in the midst of it finishes, and only then begins another.
    """

    @property
    def workers(self) -> int:
        """How many jobs can be drawn at a time."""
        ...

    async def start(self) -> None:
        """Make ready; jobs may be given at once. Workers are started when there is a first job."""
        ...

    async def draw(self, job: DrawJob, on_step: OnStep) -> bytes:
        """Draw a picture; answers its file's bytes.

        `on_step` is called before the worker has done the first step, and never after this has returned or was
        cancelled. What it raises ends the job for the caller.

        Raises:
            JobRefused: see there; also where a LoRA in storage is not the recorded one (`BROKEN_LORA`).
            WorkerLost: see there.
            StorageFailed, ObjectMissing: a LoRA could not be fetched.
        """
        ...

    async def compare(self, job: CompareJob) -> Comparison:
        """Measure a trained LoRA; raises as `draw` does, and `ObjectMissing` also where the sample is gone."""
        ...

    async def versions(self) -> list[dict[str, str]]:
        """What decides how pictures come out here: the libraries' versions, and under `DEVICE` the kind of device.

        One for each kind of worker that has been ready, so mostly one. Starts the workers where there are none yet, so
        it is asked only for a reason; and waits until one is ready, however long that takes.

        Raises:
            WorkerLost: the pool is closed, or was meanwhile.
        """
        ...

    def state(self) -> PoolState:
        """How the pool is doing at this moment."""
        ...

    async def close(self) -> None:
        """End every worker, and with `WorkerLost` every job, also those given later. Harmless the second time."""
        ...
