import resource
import signal
from pathlib import Path

import msgspec
import pytest

from maquette.core.findings import FindingCode, finding
from maquette.core.progress import CheckpointSaved, Found, Note, Phase, PhaseBegan, Step, TrainerMessage
from maquette.trainer.reporter import Reporter


def lines(path: Path) -> list[TrainerMessage]:
    return [msgspec.json.decode(line, type=TrainerMessage) for line in path.read_bytes().splitlines()]


def test_each_message_is_a_line_that_others_can_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Reporter(path) as reporter:
        reporter.phase(Phase.TRAIN)
        assert [type(message) for message in lines(path)] == [PhaseBegan]
        reporter.step(step=1, total_steps=2, loss=0.5, lr=0.1, seconds=0.2, grad_norm=1.5, peak_bytes=9)
        reporter.note("words", "0.png")
        reporter.finding(finding(FindingCode.BLURRED, "words", "0.png"))
        reporter.checkpoint(2)
        assert [type(message) for message in lines(path)] == [PhaseBegan, Step, Note, Found, CheckpointSaved]


def test_a_later_trainer_appends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for step in (1, 2):
        with Reporter(path) as reporter:
            reporter.checkpoint(step)
    assert [message.step for message in lines(path) if isinstance(message, CheckpointSaved)] == [1, 2]


def test_half_a_line_of_a_killed_trainer_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Reporter(path) as reporter:
        reporter.checkpoint(1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"chec')
    with Reporter(path) as reporter:
        reporter.checkpoint(2)
    assert path.read_bytes().startswith(whole)
    assert [message.step for message in lines(path) if isinstance(message, CheckpointSaved)] == [1, 2]


def test_a_message_without_room_is_refused_whole_and_closing_is_no_second_failure(tmp_path: Path) -> None:
    path, limits = tmp_path / "events.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Reporter(path) as reporter:
        reporter.checkpoint(1)
        whole = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 9, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                reporter.checkpoint(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert path.read_bytes() == whole
        reporter.checkpoint(3)
    assert [message.step for message in lines(path) if isinstance(message, CheckpointSaved)] == [1, 3]
