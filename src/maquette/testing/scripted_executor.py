"""An executor that trains nothing and keeps every promise of the port, in milliseconds a step.

Its node lives in memory, out of the server's reach: it outlives an executor object as a real node outlives a server.
What comes out of it are real files with deterministic bytes, the same for equal specs, resumed or not.
"""

import asyncio
import hashlib
import io
import math
import struct
from collections.abc import Mapping
from itertools import count

import msgspec
from msgspec import Struct
from PIL import Image

from maquette.core.ids import sha256_hex
from maquette.core.lifecycle import Reason
from maquette.core.progress import (
    DISK_FULL_EXIT,
    CheckpointSaved,
    Failed,
    Finished,
    Message,
    Phase,
    PhaseBegan,
    Started,
    Step,
    Stopped,
    TrainerMessage,
)
from maquette.core.rundir import CHECKPOINT_MANIFEST, CheckpointManifest, FileRecord, Manifest
from maquette.core.specs import TrainingSpec
from maquette.executors.base import AttemptPlan, CheckpointRef, Executor, Liveness, Observation, UnknownAttempt
from maquette.storage.base import ObjectMissing, Storage, StorageFailed

KILLED = -9
WEIGHTS = "output/lora.safetensors"
SAMPLE = "samples/sample.png"
MANIFEST = "manifest.json"
RANK = 4
FEATURES = 64

_lines = msgspec.json.Encoder()
_messages = msgspec.json.Decoder(TrainerMessage)


class Script(Struct, frozen=True, kw_only=True):
    """How an attempt goes; each step number counts optimiser steps done, None means never.

    Attributes:
        fail_at: it reports `reason` and exits; 0 is before the first step, as with a bad dataset.
        reason, words: what it reports then.
        die_at: it dies without a word, as after SIGKILL.
        starve_at: it dies without a word, and the kernel has ended something for want of memory.
        full_at: its disk is full, and its exit code is all that says so.
        hang_at: it lives on and does nothing more.
        ignores_stop: it goes on when asked to stop, until it is killed.
        wrong_hash: its manifest speaks of other bytes than it left.
        no_manifest: it exits with code 0 and leaves no manifest.
        lost_at: the node is gone, and every attempt on it unknown.
    """

    fail_at: int | None = None
    reason: Reason = Reason.INTERNAL
    words: str = "as scripted"
    die_at: int | None = None
    starve_at: int | None = None
    full_at: int | None = None
    hang_at: int | None = None
    ignores_stop: bool = False
    wrong_hash: bool = False
    no_manifest: bool = False
    lost_at: int | None = None


class ScriptedNode:
    """The machine on which scripted attempts run.

    Attributes:
        step_seconds: real time one optimiser step takes.
    """

    def __init__(self, node_id: str = "scripted", step_seconds: float = 0.002) -> None:
        self.node_id = node_id
        self.step_seconds = step_seconds
        self.attempts: dict[str, ScriptedAttempt] = {}
        self._scripts: dict[str, tuple[Script, ...]] = {}

    def script(self, task_id: str, *scripts: Script) -> None:
        """Decide how a task's attempts go, first to last; further ones succeed. Tasks without a script succeed."""
        self._scripts[task_id] = scripts

    def script_of(self, task_id: str, fence: int) -> Script:
        """How this attempt goes; fences count from 1."""
        scripts = self._scripts.get(task_id, ())
        return scripts[fence - 1] if 0 < fence <= len(scripts) else Script()

    def lose(self) -> None:
        """Forget everything, as a node that burnt down."""
        for attempt in self.attempts.values():
            attempt.kill()
        self.attempts.clear()


class ScriptedAttempt:
    """A run directory in memory and the coroutine that is its trainer."""

    def __init__(self, node: ScriptedNode, plan: AttemptPlan, first_step: int | None) -> None:
        self.plan = plan
        self.files: dict[str, bytes] = {}
        self.events = bytearray()
        self.exit_code: int | None = None
        self.starved = False
        self.stop_requested = False
        self.ending: asyncio.Task[None] | None = None
        self._node = node
        self._script = node.script_of(plan.task_id, plan.fence)
        self._clock = count()
        self._trainer = asyncio.create_task(self._run(first_step), name=f"scripted {plan.task_id}/{plan.fence}")

    @property
    def alive(self) -> bool:
        """Whether the trainer runs."""
        return self.exit_code is None

    def kill(self) -> None:
        """End the trainer at once and without a word."""
        if self.alive:
            self.exit_code = KILLED
            self._trainer.cancel()

    def messages_from(self, offset: int) -> tuple[tuple[TrainerMessage, ...], int]:
        """The messages from byte `offset` on, and the byte after the last."""
        lines = bytes(self.events[offset:]).splitlines()
        return tuple(_messages.decode(line) for line in lines), len(self.events)

    async def _run(self, first_step: int | None) -> None:
        self.exit_code = await self._train(first_step)

    async def _train(self, first_step: int | None) -> int | None:
        settings, script = self.plan.training.settings, self._script
        self._say(Started, resumed_from=first_step, versions={})
        if script.fail_at == 0:
            return self._fail()
        self._say(PhaseBegan, phase=Phase.TRAIN)
        for step in range((first_step or 0) + 1, settings.max_train_steps + 1):
            await asyncio.sleep(self._node.step_seconds)
            self._say(
                Step,
                step=step,
                total_steps=settings.max_train_steps,
                loss=1.0 / step,
                lr=settings.learning_rate,
                seconds=self._node.step_seconds,
            )
            stopping = self.stop_requested and not script.ignores_stop
            if step % self.plan.checkpoint_every == 0 or stopping:
                self._save_checkpoint(step)
            if stopping:
                self._say(Stopped, step=step)
                return 0
            if step == script.fail_at:
                return self._fail()
            if step in (script.die_at, script.starve_at):
                self.starved = step == script.starve_at
                return KILLED
            if step == script.full_at:
                return DISK_FULL_EXIT
            if step == script.lost_at:
                self._node.lose()
            if step == script.hang_at:
                await self._hang()
        self._export()
        return 0

    def _fail(self) -> int:
        self._say(Failed, reason=self._script.reason, message=self._script.words)
        return 1

    async def _hang(self) -> None:
        await asyncio.Event().wait()

    def _say(self, kind: type[Message], **fields: object) -> None:
        self.events += _lines.encode(kind(at=float(next(self._clock)), **fields)) + b"\n"

    def _save_checkpoint(self, step: int) -> None:
        shape = (FEATURES,)
        state = _safetensors({"state": (shape, _numbers(f"state {step}", shape, self.plan.training))})
        directory = f"checkpoints/step-{step:06d}"
        self.files[f"{directory}/state.safetensors"] = state
        manifest = CheckpointManifest(step=step, files=(_record("state.safetensors", state),))
        self.files[f"{directory}/{CHECKPOINT_MANIFEST}"] = msgspec.json.encode(manifest)
        self._say(CheckpointSaved, step=step)

    def _export(self) -> None:
        training = self.plan.training
        self.files[WEIGHTS] = lora_bytes(training)
        self.files[SAMPLE] = sample_bytes(training)
        weights = _record(WEIGHTS, self.files[WEIGHTS])
        manifest = Manifest(
            weights=msgspec.structs.replace(weights, sha256="0" * 64) if self._script.wrong_hash else weights,
            sample=_record(SAMPLE, self.files[SAMPLE]),
            finished_at=1_700_000_000 + self.plan.fence,
            steps=training.settings.max_train_steps,
            final_loss=1.0 / training.settings.max_train_steps,
        )
        if not self._script.no_manifest:
            self.files[MANIFEST] = msgspec.json.encode(manifest)
        self._say(Finished)


class ScriptedExecutor(Executor):
    """Runs attempts on a `ScriptedNode`. A new executor on the same node is a restarted server's."""

    def __init__(
        self,
        node: ScriptedNode,
        storage: Storage,
        *,
        devices: tuple[str, ...] = ("cpu",),
        step_boundary: float = 0.05,
    ) -> None:
        """Take the node; `step_boundary` is in seconds, see `LocalExecutor`."""
        self.node = node
        self._storage = storage
        self._devices = devices
        self._step_boundary = step_boundary
        self._launching: dict[str, asyncio.Lock] = {}

    @property
    def node_id(self) -> str:
        """See `Executor.node_id`."""
        return self.node.node_id

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
        async with self._launching.setdefault(handle, asyncio.Lock()):
            if handle not in self.node.attempts:
                first_step = await self._stage_in(plan)
                self.node.attempts[handle] = ScriptedAttempt(self.node, plan, first_step)
        return handle

    async def poll(self, handle: str, offset: int, *, wanted: bool = True) -> Observation:
        """See `Executor.poll`."""
        attempt = self._attempt(handle)
        alive = attempt.alive
        messages, offset = attempt.messages_from(offset)
        saved = [message.step for message in messages if isinstance(message, CheckpointSaved)]
        checkpoints = [await self._stage_out_checkpoint(attempt, step) for step in saved if wanted]
        if alive:
            return Observation(
                messages=messages, offset=offset, checkpoints=tuple(checkpoints), liveness=Liveness.RUNNING
            )
        return Observation(
            messages=messages,
            offset=offset,
            checkpoints=tuple(checkpoints),
            liveness=Liveness.EXITED,
            exit_code=attempt.exit_code,
            starved=attempt.starved,
            manifest=await self._stage_out_result(attempt),
            log_tail=f"scripted, ended with {attempt.exit_code}",
        )

    async def stop(self, handle: str, grace: float) -> None:
        """See `Executor.stop`."""
        attempt = self.node.attempts.get(handle)
        if attempt is None or not attempt.alive or attempt.ending is not None:
            return
        attempt.stop_requested = True
        attempt.ending = asyncio.create_task(_kill_after(attempt, self._step_boundary + grace))

    def kill(self, handle: str) -> None:
        """End an attempt at once and without a word, as SIGKILL does."""
        self._attempt(handle).kill()

    async def erase(self, handle: str) -> None:
        """See `Executor.erase`."""
        attempt = self.node.attempts.pop(handle, None)
        if attempt is not None:
            attempt.kill()

    async def adopt(self) -> tuple[str, ...]:
        """See `Executor.adopt`."""
        return tuple(sorted(self.node.attempts))

    async def close(self) -> None:
        """See `Executor.close`."""
        for attempt in self.node.attempts.values():
            if attempt.ending is not None:
                attempt.ending.cancel()
                attempt.ending = None

    def _attempt(self, handle: str) -> ScriptedAttempt:
        try:
            return self.node.attempts[handle]
        except KeyError:
            raise UnknownAttempt(handle) from None

    async def _stage_in(self, plan: AttemptPlan) -> int | None:
        """Check what a real node would bring to its disk; answer the step to continue from."""
        try:
            for picture, key in zip(plan.training.pictures, plan.pictures, strict=True):
                if sha256_hex(await self._storage.get(key)) != picture.sha256:
                    raise OSError(f"picture {picture.name}: the object {key} is not the one that was sealed")
        except ObjectMissing as error:
            raise OSError(f"no object {error}") from error
        return await self._newest_whole(plan.resume_from)

    async def _newest_whole(self, refs: tuple[CheckpointRef, ...]) -> int | None:
        refusal: StorageFailed | None = None
        for ref in refs:
            try:
                if await self._is_whole(ref):
                    return ref.step
            except StorageFailed as error:
                refusal = error
        if refusal:
            raise refusal
        return None

    async def _is_whole(self, ref: CheckpointRef) -> bool:
        try:
            files = {record.path: await self._storage.get(f"{ref.prefix}/{record.path}") for record in ref.files}
        except ObjectMissing:
            return False
        return _verified(files, ref.files)

    async def _stage_out_checkpoint(self, attempt: ScriptedAttempt, step: int) -> CheckpointRef:
        directory = f"checkpoints/step-{step:06d}"
        manifest = msgspec.json.decode(attempt.files[f"{directory}/{CHECKPOINT_MANIFEST}"], type=CheckpointManifest)
        for name in (*(record.path for record in manifest.files), CHECKPOINT_MANIFEST):
            await self._put(attempt, f"{directory}/{name}")
        return CheckpointRef(step=step, prefix=f"{attempt.plan.output_prefix}/{directory}", files=manifest.files)

    async def _stage_out_result(self, attempt: ScriptedAttempt) -> Manifest | None:
        if MANIFEST not in attempt.files:
            return None
        manifest = msgspec.json.decode(attempt.files[MANIFEST], type=Manifest)
        if not _verified(attempt.files, manifest.files):
            return None
        for name in (*(record.path for record in manifest.files), MANIFEST):
            await self._put(attempt, name)
        return manifest

    async def _put(self, attempt: ScriptedAttempt, name: str) -> None:
        await self._storage.put(f"{attempt.plan.output_prefix}/{name}", attempt.files[name])


def lora_bytes(training: TrainingSpec) -> bytes:
    """The LoRA of a spec: safetensors with one pair of matrices, decided by the spec alone."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    shapes = {f"{layer}.lora_A.weight": (RANK, FEATURES), f"{layer}.lora_B.weight": (FEATURES, RANK)}
    return _safetensors({name: (shape, _numbers(name, shape, training)) for name, shape in shapes.items()})


def sample_bytes(training: TrainingSpec) -> bytes:
    """The sample of a spec: a PNG of one colour, decided by the spec alone."""
    colour = _noise(3, "sample", training)
    file = io.BytesIO()
    Image.new("RGB", (training.sample.width, training.sample.height), tuple(colour)).save(file, "PNG")
    return file.getvalue()


def _safetensors(tensors: Mapping[str, tuple[tuple[int, ...], bytes]]) -> bytes:
    """Half-float tensors in the safetensors format: length of the header, header, numbers."""
    header: dict[str, object] = {}
    end = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": (end, end + len(data))}
        end += len(data)
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + b"".join(data for _, data in tensors.values())


def _numbers(name: str, shape: tuple[int, ...], training: TrainingSpec) -> bytes:
    """Half floats of a tensor. Exponents are held small: bytes of any value, yet every number finite."""
    noise = _noise(2 * math.prod(shape), name, training)
    return bytes(byte & 0x3B if index % 2 else byte for index, byte in enumerate(noise))


def _noise(size: int, name: str, training: TrainingSpec) -> bytes:
    return hashlib.shake_256(name.encode() + _lines.encode(training)).digest(size)


def _record(path: str, data: bytes) -> FileRecord:
    return FileRecord(path=path, size=len(data), sha256=sha256_hex(data))


def _verified(files: Mapping[str, bytes], records: tuple[FileRecord, ...]) -> bool:
    return all(_record(record.path, files[record.path]) == record for record in records)


async def _kill_after(attempt: ScriptedAttempt, seconds: float) -> None:
    await asyncio.sleep(seconds)
    attempt.kill()
