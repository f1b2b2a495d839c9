"""`python -m maquette.testing.stand_in_worker serve --fd N …`: an inference worker that draws flat pictures.

It speaks the worker's protocol for real, in a real process and without torch. The first word of a prompt says how it
misbehaves (`Mishap`); a file given as `--spoiled` says how it begins, for as long as the file is there (`Beginning`).
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec.structs import replace

from maquette.core.drawing import (
    LENGTH_BYTES,
    MAX_MESSAGE,
    NOTHING_LOADED,
    PROTOCOL,
    Compare,
    Compared,
    Difference,
    Draw,
    Drawn,
    FromWorker,
    Progress,
    Ready,
    Refusal,
    Refused,
    ToWorker,
    body_length,
    pack,
    unpack,
)
from maquette.testing.scripted_pool import after_use, flat_picture

SLOW_STEP = 0.1
FOREVER = 3600.0


class Beginning(StrEnum):
    """How a worker begins wrongly."""

    DEAD = "dead"
    SILENT = "silent"
    OTHER_PROTOCOL = "other_protocol"
    NOT_READY = "not_ready"


class Mishap(StrEnum):
    """How a worker carries a request out, or does not; all but SLOW and TELL after half of the steps."""

    SLOW = "slow"
    TELL = "tell"
    """It answers a JSON object, `Told`, in place of a picture, and leaves a child of its own running."""
    DIE = "die"
    HANG = "hang"
    GARBAGE = "garbage"
    TOO_LONG = "too_long"
    HALF = "half"
    WRONG_NUMBER = "wrong_number"
    WRONG_KIND = "wrong_kind"
    REFUSE = "refuse"
    POISONED = "poisoned"
    """It refuses and says that it is not clean, but lives on."""
    DIE_LATER = "die_later"
    SPEAK_LATER = "speak_later"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself: its ids, its environment's names, where its descriptors lead."""

    pid: int
    session: int
    child: int
    arguments: list[str]
    environment: dict[str, str]
    descriptors: dict[int, str]


class StandIn:
    """The worker: answers requests until the server hangs up."""

    def __init__(self, connection: socket.socket, bases: int) -> None:
        self._connection = connection
        self._bases = bases
        self._loaded = NOTHING_LOADED

    def serve(self, beginning: Beginning | None) -> None:
        """Begin as told, then answer what is asked."""
        if beginning is Beginning.DEAD:
            raise SystemExit("as told")
        if beginning is Beginning.SILENT:
            time.sleep(FOREVER)
        if beginning is Beginning.NOT_READY:
            self._send(Progress(0, 0, 1))
        protocol = PROTOCOL + 1 if beginning is Beginning.OTHER_PROTOCOL else PROTOCOL
        self._send(Ready(protocol=protocol, device="cpu", versions={"stand_in": "1"}))
        while True:
            self._answer(self._receive())

    def _answer(self, asked: ToWorker) -> None:
        word = asked.request.prompt.partition(" ")[0]
        mishap = Mishap(word) if word in set(Mishap) else None
        steps = asked.request.steps
        for step in range(1, steps + 1):
            if mishap is Mishap.SLOW:
                time.sleep(SLOW_STEP)
            if step > steps // 2 and mishap and self._fails(mishap, asked):
                return
            self._send(Progress(asked.number, step, steps))
        self._send(self._drawn(asked, mishap))
        if mishap is Mishap.DIE_LATER:
            raise SystemExit("as told")
        if mishap is Mishap.SPEAK_LATER:
            self._send(Progress(asked.number, 1, 1))

    def _drawn(self, asked: ToWorker, mishap: Mishap | None) -> FromWorker:
        # Read as a real worker would: the file must be there.
        for lora in asked.request.loras:
            Path(lora.path).read_bytes()
        paths = [lora.path for lora in asked.request.loras]
        loaded = self._loaded = after_use(self._loaded, asked.base, paths, self._bases)
        if isinstance(asked, Compare):
            same, other = Difference(mean=0.0, largest=0), Difference(mean=40.0, largest=120)
            return Compared(number=asked.number, from_sample=same, from_base=other, loaded=loaded)
        plain = replace(asked.request, loras=())
        picture = (
            msgspec.json.encode(_told())
            if mishap is Mishap.TELL
            else flat_picture(asked.base, plain, asked.request.loras, asked.format)
        )
        return Drawn(number=asked.number, picture=picture, loaded=loaded)

    def _fails(self, mishap: Mishap, asked: ToWorker) -> bool:
        """Do what ends a request early; False where nothing does."""
        loaded, number = self._loaded, asked.number
        match mishap:
            case Mishap.DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            case Mishap.HANG:
                time.sleep(FOREVER)
            case Mishap.GARBAGE:
                self._connection.sendall((3).to_bytes(LENGTH_BYTES, "big") + b"\xff\x00\xff")
            case Mishap.TOO_LONG:
                self._connection.sendall((MAX_MESSAGE + 1).to_bytes(LENGTH_BYTES, "big"))
            case Mishap.HALF:
                self._connection.sendall(pack(Progress(number, 1, 1))[:-1])
                raise SystemExit("as told")
            case Mishap.WRONG_NUMBER:
                self._send(Progress(number + 1, 1, 1))
            case Mishap.WRONG_KIND:
                none = Difference(mean=0.0, largest=0)
                self._send(Compared(number=number, from_sample=none, from_base=none, loaded=loaded))
            case Mishap.REFUSE | Mishap.POISONED:
                clean = mishap is Mishap.REFUSE
                self._send(
                    Refused(number=number, reason=Refusal.UNMATCHED_LORA, message="as told", clean=clean, loaded=loaded)
                )
            case _:
                return False
        return True

    def _send(self, message: FromWorker) -> None:
        self._connection.sendall(pack(message))

    def _receive(self) -> ToWorker:
        message = unpack(self._read(body_length(self._read(LENGTH_BYTES))))
        assert isinstance(message, Draw | Compare)
        return message

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._connection.recv(size - len(data))
            if not chunk:
                raise SystemExit(0)
            data += chunk
        return data


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spoiled", type=Path)
    serve = parser.add_subparsers(required=True).add_parser("serve")
    serve.add_argument("--fd", type=int, required=True)
    serve.add_argument("--device", required=True)
    serve.add_argument("--lora-bytes", type=int, required=True)
    serve.add_argument("--bases", type=int, default=1)
    arguments = parser.parse_args()
    beginning = None
    if arguments.spoiled:
        with contextlib.suppress(FileNotFoundError):
            beginning = Beginning(arguments.spoiled.read_text())
    with socket.socket(fileno=arguments.fd) as connection:
        StandIn(connection, arguments.bases).serve(beginning)


def _told() -> Told:
    child = subprocess.Popen(("sleep", str(FOREVER)))
    descriptors: dict[int, str] = {}
    for link in Path("/proc/self/fd").iterdir():
        # The listing's own is closed by now.
        with contextlib.suppress(FileNotFoundError):
            descriptors[int(link.name)] = str(link.readlink())
    return Told(
        pid=os.getpid(),
        session=os.getsid(0),
        child=child.pid,
        arguments=sys.argv[1:],
        environment=dict(os.environ),
        descriptors=descriptors,
    )


if __name__ == "__main__":
    main()
