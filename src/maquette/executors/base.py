"""The executor port: where and how attempts run.

An executor owns the run directories of its attempts. The server never opens one: it hears of an attempt only
through `poll`, and of files only through object keys that the executor has staged out to storage.
"""

from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from maquette.core.progress import TrainerMessage
from maquette.core.rundir import FileRecord, Manifest
from maquette.core.specs import TrainingSpec


class CheckpointRef(Struct, frozen=True, kw_only=True):
    """A checkpoint in storage: the step, and its files under `prefix` (paths relative to it)."""

    step: int
    prefix: str
    files: tuple[FileRecord, ...]


class AttemptPlan(Struct, frozen=True, kw_only=True):
    """Everything an executor needs for one attempt of a task.

    Attributes:
        task_id, fence: the attempt's identity; launching is idempotent by them.
        tenant_id: whose task it is; attempts of one tenant on one node may share what they have computed.
        name: what the task's owner calls it.
        training: the pinned spec.
        base_path: the base model's folder.
        pictures: storage key of each picture of `training.pictures`, in that order.
        resume_from: checkpoints that the attempt may continue, newest first; it takes the first whose files are all in
            storage as recorded and which proves to be what it claims, and starts afresh where there is none.
        device: the claimed device, a torch device string.
        checkpoint_every: optimiser steps between checkpoints.
        keep_every: see `core.rundir.stays`.
        leaner: how many earlier attempts of the task ran out of memory.
        output_prefix: storage prefix under which this attempt's files are staged out.
    """

    task_id: str
    fence: int
    training: TrainingSpec
    base_path: str
    pictures: tuple[str, ...]
    resume_from: tuple[CheckpointRef, ...]
    device: str
    checkpoint_every: int
    output_prefix: str
    tenant_id: str = ""
    name: str = ""
    keep_every: int = 0
    leaner: int = 0


class Liveness(StrEnum):
    """What the executor knows of an attempt's process."""

    RUNNING = "running"
    EXITED = "exited"
    """It is surely dead, and everything wanted of what it left has been staged out and read to its end."""


class Observation(Struct, frozen=True, kw_only=True):
    """What one `poll` saw.

    Attributes:
        messages: the trainer's finished lines from the given offset on, oldest first.
        offset: where the next poll reads on; opaque to the caller, which stores it with what it made of the messages.
        checkpoints: those whose files are all in storage by now and whose message is among `messages`.
        liveness: see `Liveness`.
        exit_code: of a process that exited under this executor's eyes; a hint, never a verdict. `DISK_FULL_EXIT` says
            why an attempt ended whose messages do not.
        starved: whether its process seems to have been ended for want of memory; a hint too.
        manifest: of an exited attempt that wrote one; its files are in storage under `output_prefix`.
        log_tail: the last lines of an exited attempt's log, for the operator.
    """

    messages: tuple[TrainerMessage, ...]
    offset: int
    checkpoints: tuple[CheckpointRef, ...]
    liveness: Liveness
    exit_code: int | None = None
    starved: bool = False
    manifest: Manifest | None = None
    log_tail: str = ""


class UnknownAttempt(Exception):
    """The handle names no attempt of this executor: its node is gone, or its directory was erased."""


class Executor(Protocol):
    """Runs attempts. Implementations pass `tests/contract/test_executors.py`."""

    @property
    def node_id(self) -> str:
        """Identity of the machine or cluster whose attempts this executor may adopt; survives restarts."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that attempts may claim, as torch device strings; one attempt a device."""
        ...

    def handle(self, task_id: str, fence: int) -> str:
        """What an attempt is called here, before it is launched and ever after; known without asking the node."""
        ...

    async def launch(self, plan: AttemptPlan) -> str:
        """Stage in and start an attempt; answer its handle.

        Idempotent by (task, fence): a second launch answers the same handle and starts nothing. One that is cancelled
        midway has started a trainer or not; a further launch, or `erase`, makes it certain.

        Raises:
            OSError: staging or starting failed; nothing of it is left running.
        """
        ...

    async def poll(self, handle: str, offset: int, *, wanted: bool = True) -> Observation:
        """See what an attempt did since `offset`, and tell the node that it is supervised, also while this lasts.

        Files spoken of are staged out before the answer. Polling twice from one offset answers the same messages.
        Of an attempt that is not `wanted` any more only a result is staged out, and no checkpoint: where it has left
        none, the answer needs no storage.

        Raises:
            UnknownAttempt: see there.
            OSError: staging out failed; asking again repeats the work.
        """
        ...

    async def stop(self, handle: str, grace: float) -> None:
        """End an attempt: ask at a step boundary, then SIGTERM, then after `grace` seconds SIGKILL to its group.

        Returns at once; `poll` tells when it is dead. Harmless when it is dead or unknown.
        """
        ...

    async def erase(self, handle: str) -> None:
        """End at once whatever of an attempt still runs, and delete its run directory. Harmless when it is gone."""
        ...

    async def adopt(self) -> tuple[str, ...]:
        """Handles of the attempts found on this node, dead or alive, after a restart of the server."""
        ...

    async def close(self) -> None:
        """Let go of resources of this process; running attempts run on."""
        ...
