"""A long-lived process that draws: bases stay resident, LoRAs are swapped in place, one request at a time.

Whatever becomes of a request, it leaves nothing for the next: LoRAs are set anew by each, and a worker that can't say
for sure that it is as before says so (`Refused.clean`) and ends.
"""

import logging
import socket
from pathlib import Path

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import (
    PROTOCOL,
    Compare,
    Compared,
    Draw,
    Drawn,
    DrawRequest,
    Progress,
    Ready,
    Refusal,
    Refused,
    ToWorker,
)
from maquette.core.registry import UnknownName
from maquette.core.weights import BrokenWeights
from maquette.families.base import (
    BadPicture,
    NotFinite,
    OnStep,
    UnmatchedLora,
    Unsupported,
)
from maquette.families.environment import library_versions
from maquette.families.out_of_memory import is_out_of_memory
from maquette.families.precision import use_device
from maquette.inference.channel import Channel, HungUp
from maquette.inference.device import device_kind, usable_device
from maquette.inference.pictures import decoded, difference, encoded
from maquette.inference.residents import Resident, Residents

log = logging.getLogger(__name__)

REFUSALS: tuple[tuple[type[Exception], Refusal], ...] = (
    (UnmatchedLora, Refusal.UNMATCHED_LORA),
    (BrokenWeights, Refusal.BROKEN_LORA),
    (BrokenBase, Refusal.BROKEN_BASE),
    (UnknownName, Refusal.BROKEN_BASE),
    (Unsupported, Refusal.UNSUPPORTED),
    (BadPicture, Refusal.BAD_PICTURE),
    (NotFinite, Refusal.NOT_FINITE),
    (MemoryError, Refusal.OUT_OF_MEMORY),
)
"""What each error means to the server; the first that fits counts, and all others are INTERNAL."""

SLACK = 128 * 1024 * 1024
"""Bytes of device memory that libraries may keep as a workspace when all else is gone."""


class Worker:
    """Carries out requests with the bases it holds."""

    def __init__(self, bases: Residents) -> None:
        self._bases = bases

    def answer(self, message: ToWorker, on_step: OnStep) -> Drawn | Compared | Refused:
        """Carry out a request, or say why not.

        Raises:
            HungUp: as `on_step` does.
        """
        try:
            return self._drawn(message, on_step) if isinstance(message, Draw) else self._compared(message, on_step)
        except HungUp:
            raise
        except Exception as error:
            reason, words = refusal(error), _without_folders(_words(error), message)
            if reason is Refusal.INTERNAL:
                log.exception("request %d", message.number)
        # Only here: until the error is gone, its traceback holds what the request had in memory.
        clean = self._tidied(reason) and reason is not Refusal.INTERNAL
        return Refused(number=message.number, reason=reason, message=words, clean=clean, loaded=self._bases.loaded)

    def _drawn(self, message: Draw, on_step: OnStep) -> Drawn:
        resident = self._bases.use(message.base)
        self._use_loras(resident, message.request)
        picture = encoded(resident.pipeline.draw(message.request, on_step), message.format)
        return Drawn(number=message.number, picture=picture, loaded=self._bases.loaded)

    def _compared(self, message: Compare, on_step: OnStep) -> Compared:
        sample, request = decoded(message.sample), message.request
        resident = self._bases.use(message.base)
        self._use_loras(resident, request)
        drawn = resident.pipeline.draw(request, lambda step, steps: on_step(step, 2 * steps))
        resident.adapters.activate(())
        plain = resident.pipeline.draw(request, lambda step, steps: on_step(steps + step, 2 * steps))
        return Compared(
            number=message.number,
            from_sample=difference(drawn, sample),
            from_base=difference(drawn, plain),
            loaded=self._bases.loaded,
        )

    def _use_loras(self, resident: Resident, request: DrawRequest) -> None:
        try:
            loaded = resident.loras.use([lora.path for lora in request.loras], resident.adapters.read)
        except OSError as error:
            raise BrokenWeights(f"a LoRA can't be read: {error}") from error
        resident.adapters.activate([(loaded[lora.path], lora.strength) for lora in request.loras])

    def _tidied(self, reason: Refusal) -> bool:
        """Take back whatever a request left; answer whether that is certain.

        Where memory did not suffice all goes, bases too: what else they keep by now may be what left no room.
        """
        try:
            if reason is Refusal.OUT_OF_MEMORY:
                self._bases.clear()
                return self._bases.device_bytes <= SLACK
            self._bases.deactivate()
        except Exception:  # a device that failed may fail in any way
            log.exception("what a refused request left can't be taken back")
            return False
        return True


def serve(connection: socket.socket, *, device: str, lora_bytes: int, bases: int, kind: type[Worker] = Worker) -> int:
    """Answer requests until the server hangs up; answer the exit code, 1 where the worker must be replaced.

    `kind` is what carries them out.

    Raises:
        UnknownDevice: see there.
        BrokenMessage: what came is no request.
    """
    place = usable_device(device)
    # As the trainer works: its sample must come out again.
    use_device(place)
    worker, channel = kind(Residents(place, most=bases, lora_bytes=lora_bytes)), Channel(connection)
    try:
        channel.send(Ready(protocol=PROTOCOL, device=device_kind(place), versions=library_versions()))
        while True:
            message = channel.receive()
            answer = worker.answer(message, _telling(channel, message.number))
            channel.send(answer)
            if isinstance(answer, Refused) and not answer.clean:
                return 1
    except HungUp:
        return 0


def refusal(error: Exception) -> Refusal:
    """What an error means to the server."""
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return Refusal.OUT_OF_MEMORY
    return next((reason for kind, reason in REFUSALS if isinstance(error, kind)), Refusal.INTERNAL)


def _words(error: Exception) -> str:
    known = refusal(error) not in {Refusal.INTERNAL, Refusal.OUT_OF_MEMORY}
    return str(error) if known else f"{type(error).__name__}: {error}"


def _without_folders(words: str, message: ToWorker) -> str:
    """The words with names in place of the paths that a request holds: clients read them, and folders are our own."""
    request = message.request
    bases = [message.base, request.vae, request.refiner.base if request.refiner else None]
    paths = [use.path for use in (*bases, *request.loras, *request.embeddings) if use is not None]
    for path in sorted(paths, key=len, reverse=True):
        words = words.replace(path, Path(path).name)
    return words


def _telling(channel: Channel, number: int) -> OnStep:
    """Tell the server of each step, and notice when it is gone."""

    def on_step(step: int, steps: int) -> None:
        channel.check()
        channel.send(Progress(number, step, steps))

    return on_step
