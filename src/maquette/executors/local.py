"""Trainers as processes of this machine."""

import asyncio
import re
import shutil
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path

from maquette.core.files import write_atomic
from maquette.executors.base import AttemptPlan, Executor, Observation, UnknownAttempt
from maquette.executors.node import NodeAttempt, NodeSettings
from maquette.storage.base import Storage

HANDLE = re.compile(r"[0-9a-z-]+/[0-9]+")
LOOK_AGAIN = 0.1
"""Seconds between two looks at a process that was asked to end."""
DEATH_TAKES = 5.0
"""Seconds within which a killed process, which may hold much memory, should be gone."""
NODE_ID = "node-id"
TRASH = ".trash"
CACHES = ".caches"


class LocalExecutor(Executor):
    """Runs each attempt in `<root>/<task_id>/<fence>`, which is also its handle."""

    def __init__(
        self,
        root: Path,
        storage: Storage,
        *,
        devices: tuple[str, ...],
        settings: NodeSettings,
        step_boundary: float = 10.0,
    ) -> None:
        """Open, making `root` and this node's id where they do not exist.

        Args:
            root: directory of the run directories; of one server alone.
            storage: where files are staged in from and out to.
            devices: torch device strings, one attempt each.
            settings: for every trainer.
            step_boundary: seconds a trainer that is stopped may take to end at a step boundary before SIGTERM.

        Raises:
            OSError: `root` can't be used.
        """
        self._root = root.resolve()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._storage = storage
        self._devices = devices
        self._settings = settings
        self._step_boundary = step_boundary
        self._attempts: dict[str, NodeAttempt] = {}
        self._endings: dict[str, asyncio.Task[None]] = {}
        self._node_id = _node_id(self._root / NODE_ID)

    @property
    def node_id(self) -> str:
        """See `Executor.node_id`."""
        return self._node_id

    @property
    def devices(self) -> tuple[str, ...]:
        """See `Executor.devices`."""
        return self._devices

    def handle(self, task_id: str, fence: int) -> str:
        """See `Executor.handle`."""
        return f"{task_id}/{fence}"

    async def launch(self, plan: AttemptPlan) -> str:
        """See `Executor.launch`."""
        handle = self.handle(plan.task_id, plan.fence)
        try:
            await self._attempt(handle).launch(plan)
        except OSError:
            await self.erase(handle)
            raise
        return handle

    async def poll(self, handle: str, offset: int, *, wanted: bool = True) -> Observation:
        """See `Executor.poll`."""
        try:
            return await self._attempt(handle).observe(offset, wanted=wanted)
        except UnknownAttempt:
            self._attempts.pop(handle, None)
            raise

    async def stop(self, handle: str, grace: float) -> None:
        """See `Executor.stop`. A second call changes nothing while the first one's deadlines run."""
        if handle not in self._endings:
            ending = asyncio.create_task(self._end(handle, grace), name=f"end {handle}")
            self._endings[handle] = ending
            ending.add_done_callback(lambda _: self._endings.pop(handle))

    async def erase(self, handle: str) -> None:
        """See `Executor.erase`."""
        try:
            attempt = self._attempt(handle)
        except UnknownAttempt:
            return
        await _killed_within(attempt, DEATH_TAKES)
        self._attempts.pop(handle, None)
        await asyncio.to_thread(self._discard, attempt.run.root)

    async def adopt(self) -> tuple[str, ...]:
        """See `Executor.adopt`."""
        return await asyncio.to_thread(self._found)

    async def close(self) -> None:
        """See `Executor.close`."""
        for ending in tuple(self._endings.values()):
            ending.cancel()
        await asyncio.gather(*self._endings.values(), return_exceptions=True)

    def _attempt(self, handle: str) -> NodeAttempt:
        """The one object for an attempt; it alone knows of its child process, so there must not be two."""
        if not HANDLE.fullmatch(handle):
            raise UnknownAttempt(handle)
        if handle not in self._attempts:
            self._attempts[handle] = NodeAttempt(
                self._root / handle, self._storage, self._settings, caches=self._root / CACHES
            )
        return self._attempts[handle]

    async def _end(self, handle: str, grace: float) -> None:
        try:
            attempt = self._attempt(handle)
            await attempt.ask_to_stop()
        except UnknownAttempt:
            self._attempts.pop(handle, None)
            return
        if not await _dead_within(attempt, self._step_boundary):
            await asyncio.to_thread(attempt.process.signal, signal.SIGTERM)
            await _dead_within(attempt, grace)
        await asyncio.to_thread(attempt.process.kill)

    def _found(self) -> tuple[str, ...]:
        shutil.rmtree(self._root / TRASH, ignore_errors=True)
        handles = (str(path.relative_to(self._root)) for path in self._root.glob("*/*") if path.is_dir())
        return tuple(sorted(handle for handle in handles if HANDLE.fullmatch(handle)))

    def _discard(self, directory: Path) -> None:
        """Delete a run directory so that no half of one is ever found: first out of sight, then for good."""
        trash = self._root / TRASH
        trash.mkdir(exist_ok=True)
        grave = trash / uuid.uuid4().hex
        try:
            directory.rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave)
        with suppress(OSError):
            # The task's own directory, unless another attempt of it is still there.
            directory.parent.rmdir()


async def _dead_within(attempt: NodeAttempt, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while await asyncio.to_thread(attempt.process.alive):
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(LOOK_AGAIN)
    return True


async def _killed_within(attempt: NodeAttempt, seconds: float) -> None:
    """Kill until it is dead: a launch in progress may start the trainer only after the first look."""
    until = time.monotonic() + seconds
    await asyncio.to_thread(attempt.process.kill)
    while time.monotonic() < until and await asyncio.to_thread(attempt.process.alive):
        await asyncio.sleep(LOOK_AGAIN)
        await asyncio.to_thread(attempt.process.kill)


def _node_id(path: Path) -> str:
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex.encode())
    return path.read_text()
