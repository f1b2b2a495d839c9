"""Telling the executor what happens: one JSON line a message."""

import os
import time
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from maquette.core.findings import Finding
from maquette.core.progress import CheckpointSaved, Found, Note, Phase, PhaseBegan, Step, TrainerMessage


class Reporter:
    """Appends to `events.jsonl`; each line is out of this process before the call returns."""

    def __init__(self, path: Path) -> None:
        self.encoder = msgspec.json.Encoder()
        _drop_unfinished_line(path)
        # Without a buffer: what finds no room fails here and now, and not once more when the file is closed.
        self.file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def say(self, message: TrainerMessage) -> None:
        """Append one message.

        Raises:
            OSError: it could not be written, and nothing of it is there.
        """
        _append(self.file, self.encoder.encode(message) + b"\n")

    def phase(self, phase: Phase) -> None:
        """A stage begins."""
        self.say(PhaseBegan(at=time.time(), phase=phase))

    def note(self, text: str, picture: str | None = None) -> None:
        """Something worth telling the owner about the run."""
        self.say(Note(at=time.time(), text=text, picture=picture))

    def finding(self, finding: Finding) -> None:
        """Something about the pictures or captions that the owner should know."""
        self.say(Found(at=time.time(), finding=finding))

    def step(
        self,
        *,
        step: int,
        total_steps: int,
        loss: float,
        lr: float,
        seconds: float,
        grad_norm: float,
        peak_bytes: int,
    ) -> None:
        """One optimiser step is done; see `Step`."""
        self.say(
            Step(
                at=time.time(),
                step=step,
                total_steps=total_steps,
                loss=loss,
                lr=lr,
                seconds=seconds,
                grad_norm=grad_norm,
                peak_bytes=peak_bytes,
            )
        )

    def checkpoint(self, step: int) -> None:
        """A checkpoint is whole and verified."""
        self.say(CheckpointSaved(at=time.time(), step=step))


def _append(file: FileIO, line: bytes) -> None:
    """Write a line whole or not at all: onto half of one, which a full disk leaves, the next would grow."""
    end = os.fstat(file.fileno()).st_size
    left = memoryview(line)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        os.ftruncate(file.fileno(), end)
        raise


def _drop_unfinished_line(path: Path) -> None:
    """A predecessor killed while it wrote left half a line, which no reader has taken: ours must not grow onto it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = file.read().rpartition(b"\n")
        os.ftruncate(file.fileno(), len(whole[0]) + len(whole[1]))
