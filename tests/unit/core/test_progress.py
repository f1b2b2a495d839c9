"""The wire forms of trainer messages are pinned: a running trainer and a newer server must understand each other."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from maquette.core.findings import FindingCode, finding
from maquette.core.lifecycle import Reason
from maquette.core.progress import (
    CheckpointSaved,
    Failed,
    Finished,
    Found,
    MemoryTaken,
    Note,
    Phase,
    PhaseBegan,
    Planned,
    Resumed,
    SamplesDrawn,
    Started,
    Step,
    SteppedBack,
    Stopped,
    TrainerMessage,
    Validated,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "progress.json"

MESSAGES: list[TrainerMessage] = [
    Started(at=1750000000.5, resumed_from=None, versions={"torch": "2.13.0"}),
    Started(at=1750000000.5, resumed_from=100, versions={}),
    Planned(
        at=1750000000.75,
        dtype="bfloat16",
        gradient_checkpointing=True,
        micro_batch=2,
        parts_in_turn=False,
        cuda_graphs=True,
        needed_bytes=4_000_000_000,
        free_bytes=80_000_000_000,
        why="activations are computed twice",
    ),
    Resumed(at=1750000000.875, step=100, verified=True, recorded=0.125, computed=0.125),
    Resumed(at=1750000000.875, step=50, verified=False, recorded=None, computed=0.25),
    *(PhaseBegan(at=1750000001.0, phase=phase) for phase in Phase),
    Note(at=1750000002.0, text="its end has no effect", picture="0-abc.png"),
    Note(at=1750000002.0, text="its end has no effect"),
    Found(at=1750000002.5, finding=finding(FindingCode.BLURRED, "the picture is blurred", "0-abc.png")),
    Found(at=1750000002.5, finding=finding(FindingCode.FACES_NOT_RESTORED, "faces stay as they are")),
    Step(at=1750000003.0, step=1, total_steps=2, loss=0.125, lr=0.0001, seconds=0.25, grad_norm=0.5, peak_bytes=7),
    Validated(at=1750000003.5, step=2, loss=0.0625),
    SteppedBack(at=1750000003.75, diverged_at=2, to=0, lr=0.00005, why="the loss of step 2 is nan"),
    CheckpointSaved(at=1750000004.0, step=2),
    SamplesDrawn(at=1750000004.25, step=2),
    MemoryTaken(at=1750000004.5, peak_bytes=3_000_000_000, needed_bytes=4_000_000_000),
    Failed(at=1750000005.0, reason=Reason.BAD_DATASET, message="0-abc.png: the picture can't be read"),
    Stopped(at=1750000006.0, step=1),
    Finished(at=1750000007.0),
]


def test_messages_are_written_as_pinned() -> None:
    assert [msgspec.json.decode(msgspec.json.encode(message)) for message in MESSAGES] == msgspec.json.decode(
        GOLDEN.read_bytes()
    )


def test_pinned_messages_are_read_as_what_they_were() -> None:
    assert msgspec.json.decode(GOLDEN.read_bytes(), type=list[TrainerMessage]) == MESSAGES


def test_every_kind_of_message_is_pinned() -> None:
    assert {type(message) for message in MESSAGES} == set(get_args(TrainerMessage))


def test_an_unknown_message_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"type":"guess","at":1.0}', type=TrainerMessage)


def test_a_step_of_an_older_trainer_is_read() -> None:
    line = b'{"type":"step","step":1,"total_steps":2,"loss":0.125,"lr":0.0001,"seconds":0.25,"at":1.0}'
    said = msgspec.json.decode(line, type=TrainerMessage)
    assert isinstance(said, Step)
    assert (said.grad_norm, said.peak_bytes) == (0.0, 0)
