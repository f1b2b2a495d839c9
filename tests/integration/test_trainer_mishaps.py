"""What goes wrong while a run trains: each ends as designed, none with a bad file, none at the cost of a checkpoint."""

import math
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.core.basefolder import WEIGHTS, BrokenBase
from maquette.core.files import file_sha256
from maquette.core.lifecycle import Reason
from maquette.core.progress import (
    CheckpointSaved,
    Failed,
    MemoryTaken,
    Note,
    Planned,
    Resumed,
    SamplesDrawn,
    Started,
    Step,
    SteppedBack,
    Validated,
)
from maquette.core.rundir import (
    CHECKPOINT_LORA,
    CHECKPOINT_MANIFEST,
    CheckpointManifest,
    FileRecord,
    RunDirectory,
    RunSpec,
)
from maquette.core.weights import read_header
from maquette.families.base import NotFinite
from maquette.families.sd15.objective import Sd15Objective
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.runs import change_spec, make_run, read_messages, read_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer import checkpoint
from maquette.trainer.attempt import Attempt
from maquette.trainer.failures import RunFailed, StopRequested
from maquette.trainer.loop import run
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision
from maquette.trainer.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.torch

PATIENCE = 240


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="module")
def straight(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run with a checkpoint every second step."""
    directory = make_run(tmp_path_factory.mktemp("runs") / "straight", base, checkpoint_every=2)
    run_here(directory)
    return directory


def run_here(directory: RunDirectory, spec: RunSpec | None = None) -> None:
    with Reporter(directory.events) as reporter:
        run(Attempt(directory, spec or read_spec(directory), Supervision(directory), reporter))


def at_rate(directory: RunDirectory, rate: float) -> RunSpec:
    """The run at a learning rate that no request may ask for."""
    spec = read_spec(directory)
    settings = replace(spec.training.settings, learning_rate=rate)
    return replace(spec, training=replace(spec.training, settings=settings))


def command(directory: RunDirectory) -> list[str]:
    return [sys.executable, "-m", "maquette.trainer", str(directory.root)]


def said(directory: RunDirectory, kind: type) -> list[Any]:
    return [message for message in read_messages(directory) if isinstance(message, kind)]


def steps(directory: RunDirectory) -> list[int]:
    return [message.step for message in said(directory, Step)]


def weights(directory: RunDirectory) -> Path:
    return directory.output / "lora.safetensors"


def whole(directory: RunDirectory) -> list[str]:
    return [path.name for path in checkpoint.whole(directory, read_spec(directory).training)]


def spoil_losses(monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[int], float], *, times: int = 1) -> None:
    """Multiply the loss of some trained steps, counted from 1 over all calls that train."""
    losses, calls, left = Sd15Objective.losses, 0, times

    def spoiling(self: Sd15Objective, *rest: Any) -> torch.Tensor:
        nonlocal calls, left
        found = losses(self, *rest)
        if torch.is_grad_enabled():
            calls += 1
            factor = spoilt(calls)
            if factor != 1 and left:
                left -= 1
                return found * factor
        return found

    monkeypatch.setattr(Sd15Objective, "losses", spoiling)


class TestDivergence:
    def test_a_loss_that_is_no_number_once_takes_the_run_back_and_it_ends_well(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        spoil_losses(monkeypatch, lambda call: math.nan if call == 4 else 1)
        run_here(directory)
        assert steps(directory) == [1, 2, 3, 3, 4, 5, 6]
        (back,) = said(directory, SteppedBack)
        assert (back.diverged_at, back.to, back.lr) == (4, 2, pytest.approx(5e-4))
        assert [step.lr for step in said(directory, Step)] == pytest.approx([1e-3] * 3 + [5e-4] * 4)
        assert all(tensor.isfinite().all() for tensor in read_tensors(weights(directory)).values())

    def test_before_the_first_checkpoint_it_begins_again(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = make_run(tmp_path / "run", base)
        spoil_losses(monkeypatch, lambda call: math.inf if call == 3 else 1)
        run_here(directory)
        assert steps(directory) == [1, 2, 1, 2, 3, 4, 5, 6]
        assert [(back.diverged_at, back.to) for back in said(directory, SteppedBack)] == [(3, 0)]

    def test_a_loss_that_runs_away_is_held_against_the_bases(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = make_run(
            tmp_path / "run",
            base,
            checkpoint_every=2,
            max_train_steps=2,
            with_prior_preservation=True,
            prior_loss_weight=0.5,
        )
        losses, trained = Sd15Objective.losses, 0

        def measured(self: Sd15Objective, *rest: Any) -> torch.Tensor:
            """One with the base alone, and after it has been taken back; two after the first steps."""
            nonlocal trained
            trained += torch.is_grad_enabled()
            found = losses(self, *rest)
            return found if torch.is_grad_enabled() else torch.full_like(found, 2 if trained == 2 else 1)

        monkeypatch.setattr(Sd15Objective, "losses", measured)
        run_here(directory)
        (back,) = said(directory, SteppedBack)
        assert (back.diverged_at, back.to) == (2, 0)
        # A loss of one on the pictures, and half of one on those of the class; then twice as much.
        assert back.why.endswith("is 3, more than 1.3 times the 1.5 of the base alone")
        assert steps(directory) == [1, 2, 1, 2]

    def test_a_rate_that_is_far_too_high_ends_it(self, tmp_path: Path) -> None:
        """Nothing is spoiled here. All its numbers are finite, and the LoRA makes the base worse than it was alone."""
        directory = make_run(
            tmp_path / "run", BUNDLED_PATH, checkpoint_every=4, max_train_steps=8, lora_r=8, lora_alpha=8
        )
        with pytest.raises(RunFailed, match=r"of the base alone; it had diverged at step 4 at twice the") as failure:
            run_here(directory, at_rate(directory, 0.1))
        assert failure.value.reason is Reason.DIVERGED
        (back,) = said(directory, SteppedBack)
        assert (back.to, back.lr) == (0, pytest.approx(0.05))
        assert all(math.isfinite(step.loss) for step in said(directory, Step))
        assert not weights(directory).exists()

    def test_a_second_time_it_fails_by_its_step_and_keeps_its_checkpoint(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        spoil_losses(monkeypatch, lambda call: math.nan if call >= 4 else 1, times=2)
        with pytest.raises(RunFailed, match=r"the loss of step 3 is nan.*diverged at step 4") as failure:
            run_here(directory)
        assert failure.value.reason is Reason.DIVERGED
        assert not weights(directory).exists()
        assert not directory.manifest.exists()
        assert whole(directory)[0] == "step-000002"

    def test_weights_that_are_no_numbers_reach_no_checkpoint_and_no_file(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=1, max_train_steps=1)
        spec = at_rate(directory, 1e38)
        with pytest.raises(RunFailed, match="after step 1 the weight") as caught:
            run_here(directory, spec)
        assert caught.value.reason is Reason.DIVERGED
        assert [path.name for path in checkpoint.whole(directory, spec.training)] == ["step-000000"]
        assert not weights(directory).exists()

    def test_a_base_that_loses_no_number_without_a_lora_is_told_to_be_damaged(self, base: Path, tmp_path: Path) -> None:
        """Of a run that diverges, its owner would try lower rates for ever."""
        damaged = shutil.copytree(base, tmp_path / "damaged")
        (file,) = (damaged / "unet").glob(WEIGHTS)
        tensors = load_file(file)
        tensors["mid_block.resnets.0.conv1.bias"][0] = math.nan
        save_file(tensors, file, metadata={"format": "pt"})
        directory = make_run(tmp_path / "run", damaged)
        with pytest.raises(BrokenBase, match="the base's loss on the pictures, without a LoRA, is nan"):
            run_here(directory)
        assert (steps(directory), whole(directory)) == ([], [])


class TestVerifiedResume:
    def test_the_probe_is_the_recorded_one_to_the_bit(self, straight: RunDirectory, tmp_path: Path, base: Path) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        shutil.copytree(straight.checkpoint(4), directory.checkpoint(4))
        run_here(directory)
        (resumed,) = said(directory, Resumed)
        assert (resumed.step, resumed.verified) == (4, True)
        assert resumed.recorded == resumed.computed
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))

    def test_what_is_whole_but_not_what_it_claims_gives_way_to_the_one_before(
        self, straight: RunDirectory, tmp_path: Path, base: Path
    ) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        for step in (4, 6):
            shutil.copytree(straight.checkpoint(step), directory.checkpoint(step))
        claim_other_weights(directory, 6)
        run_here(directory)
        newer, older = said(directory, Resumed)
        assert (newer.step, newer.verified, older.step, older.verified) == (6, False, 4, True)
        assert newer.recorded != newer.computed
        assert steps(directory) == [5, 6]
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))

    def test_where_none_is_what_it_claims_the_run_begins_again(
        self, straight: RunDirectory, tmp_path: Path, base: Path
    ) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        shutil.copytree(straight.checkpoint(4), directory.checkpoint(4))
        claim_other_weights(directory, 4)
        run_here(directory)
        assert [resumed.verified for resumed in said(directory, Resumed)] == [False]
        assert steps(directory) == [1, 2, 3, 4, 5, 6]
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))

    def test_the_beginning_too_is_told_where_it_is_not_what_it_claims(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base, max_train_steps=2)
        run_here(directory)
        trained = file_sha256(weights(directory))
        assert whole(directory) == ["step-000002", "step-000000"]
        for claims_another in (False, True):
            shutil.rmtree(directory.checkpoint(2))
            for file in (directory.events, directory.manifest, weights(directory)):
                file.unlink()
            if claims_another:
                claim_other_weights(directory, 0)
            run_here(directory)
            assert [(told.step, told.verified) for told in said(directory, Resumed)] == [(0, False)] * claims_another
            assert file_sha256(weights(directory)) == trained

    def test_a_checkpoint_that_is_cut_off_gives_way_to_the_one_before(
        self, straight: RunDirectory, tmp_path: Path, base: Path
    ) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        for step in (4, 6):
            shutil.copytree(straight.checkpoint(step), directory.checkpoint(step))
        damaged = directory.checkpoint(6) / checkpoint.OPTIMIZER
        damaged.write_bytes(damaged.read_bytes()[:-7])
        run_here(directory)
        (started,) = said(directory, Started)
        assert started.resumed_from == 4
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))


def claim_other_weights(directory: RunDirectory, step: int) -> None:
    """Change a checkpoint's LoRA, with hashes to fit: no file is damaged, and yet it is not what was trained."""
    folder = directory.checkpoint(step)
    lora = folder / CHECKPOINT_LORA
    changed = {name: tensor * 2 + 0.01 for name, tensor in read_tensors(lora).items()}
    write_tensors(lora, changed, read_header(lora).metadata)
    names = sorted(path.name for path in folder.iterdir() if path.name != CHECKPOINT_MANIFEST)
    records = tuple(FileRecord(name, (folder / name).stat().st_size, file_sha256(folder / name)) for name in names)
    directory.write(folder / CHECKPOINT_MANIFEST, CheckpointManifest(step=step, files=records))


class TestCheckpoints:
    def test_each_is_a_lora_like_the_finished_one(self, straight: RunDirectory) -> None:
        last = straight.checkpoint(6) / CHECKPOINT_LORA
        assert file_sha256(last) == file_sha256(weights(straight))
        earlier = straight.checkpoint(4) / CHECKPOINT_LORA
        assert read_header(earlier).metadata == read_header(last).metadata
        assert read_tensors(earlier).keys() == read_tensors(last).keys()

    def test_samples_and_validation_go_with_each_and_decide_nothing(self, base: Path, tmp_path: Path) -> None:
        def trained(name: str, *, samples: bool) -> RunDirectory:
            directory = make_run(tmp_path / name, base, pictures=3, checkpoint_every=3)
            training = read_spec(directory).training
            pictures = (*training.pictures[:2], replace(training.pictures[2], held_out=True))
            asked = (training.sample, replace(training.sample, prompt="a disc")) if samples else ()
            change_spec(directory, training=replace(training, pictures=pictures, checkpoint_samples=asked))
            run_here(directory)
            return directory

        plain, watched = trained("plain", samples=False), trained("watched", samples=True)
        pictures = [watched.checkpoint(step) / f"sample-{index}.png" for step in (3, 6) for index in (0, 1)]
        assert len({file_sha256(picture) for picture in pictures}) == 4
        assert file_sha256(pictures[2]) == file_sha256(watched.samples / "final.png")
        assert not list(plain.checkpoint(6).glob("*.png"))
        assert all(
            torch.equal(tensor, read_tensors(weights(plain))[name])
            for name, tensor in read_tensors(weights(watched)).items()
        )
        measured = [(message.step, message.loss) for message in said(watched, Validated)]
        assert [step for step, _ in measured] == [0, 3, 6]
        assert len({loss for _, loss in measured}) == 3
        assert measured == [(message.step, message.loss) for message in said(plain, Validated)]

    def test_what_is_held_out_is_not_learned_from(self, base: Path, tmp_path: Path) -> None:
        one = make_run(tmp_path / "one", base, pictures=1, max_train_steps=2)
        other = make_run(tmp_path / "other", base, pictures=2, max_train_steps=2)
        training = read_spec(other).training
        held_out = (training.pictures[0], replace(training.pictures[1], held_out=True))
        change_spec(other, training=replace(training, pictures=held_out))
        for directory in (one, other):
            run_here(directory)
        assert [step.loss for step in said(one, Step)] == [step.loss for step in said(other, Step)]

    def test_measured_is_what_is_held_out_and_no_class_picture(self, base: Path, tmp_path: Path) -> None:
        def measured(name: str, *, classes: bool) -> float:
            """Before the first step, when the LoRA is nothing yet."""
            directory = make_run(tmp_path / name, base, max_train_steps=1, with_prior_preservation=classes)
            training = read_spec(directory).training
            held_out = (training.pictures[0], replace(training.pictures[1], held_out=True))
            change_spec(directory, training=replace(training, pictures=held_out))
            run_here(directory)
            return said(directory, Validated)[0].loss

        assert measured("with", classes=True) == measured("without", classes=False)


class TestSamples:
    """Pictures on the way decide nothing: neither whether there is a checkpoint, nor whether the run ends well."""

    @pytest.fixture
    def directory(self, base: Path, tmp_path: Path) -> RunDirectory:
        """A run that draws with every second step's checkpoint."""
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        training = read_spec(directory).training
        change_spec(directory, training=replace(training, checkpoint_samples=(training.sample,) * 2))
        return directory

    def test_one_that_can_not_be_drawn_is_told_and_training_goes_on(
        self, directory: RunDirectory, straight: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told_by_then: list[int] = []
        fail_drawing(
            monkeypatch,
            failing=range(1, 2),
            began=lambda: told_by_then.append(len(said(directory, CheckpointSaved))),
        )
        run_here(directory)
        (note,) = said(directory, Note)
        assert note.text.startswith("no sample was drawn after step 2: ")
        assert "numbers that are not finite" in note.text
        assert [saved.step for saved in said(directory, CheckpointSaved)] == [2, 4, 6]
        # One that is lost while it draws has told its checkpoint: one picture of the first, two of each other.
        assert told_by_then == [1, 2, 2, 3, 3, 3]
        assert [drawn.step for drawn in said(directory, SamplesDrawn)] == [4, 6]
        assert sorted(path.name for path in directory.checkpoint(4).glob("*.png")) == ["sample-0.png", "sample-1.png"]
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))

    def test_a_lora_that_draws_no_numbers_has_diverged_and_keeps_its_checkpoints(
        self, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail_drawing(monkeypatch, failing=range(1, 100))
        with pytest.raises(RunFailed, match=r"drawing with the LoRA, .* not finite; try a lower") as failure:
            run_here(directory)
        assert failure.value.reason is Reason.DIVERGED
        assert [saved.step for saved in said(directory, CheckpointSaved)] == [2, 4, 6]
        assert whole(directory) == ["step-000006", "step-000004"]
        assert not directory.manifest.exists()

    def test_who_stops_waits_for_none(self, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = fail_drawing(monkeypatch, failing=range(0))
        step = Reporter.step

        def stopping(self: Reporter, **said: Any) -> None:
            step(self, **said)
            directory.stop.touch()

        monkeypatch.setattr(Reporter, "step", stopping)
        with pytest.raises(StopRequested, match="stopped at step 1"):
            run_here(directory)
        assert drawn == []
        assert [saved.step for saved in said(directory, CheckpointSaved)] == [1]
        assert whole(directory)[0] == "step-000001"

    def test_who_stops_while_one_is_drawn_waits_for_no_more_than_a_denoising_step(
        self, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn = fail_drawing(monkeypatch, failing=range(0), began=directory.stop.touch)
        with pytest.raises(StopRequested, match="stopped at step 2"):
            run_here(directory)
        assert drawn == [1]
        assert [saved.step for saved in said(directory, CheckpointSaved)] == [2]
        assert whole(directory)[0] == "step-000002"
        assert not list(directory.checkpoint(2).glob("*.png"))


def test_who_stops_while_a_class_picture_is_drawn_waits_for_no_more_than_a_denoising_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_run(tmp_path / "run", base, with_prior_preservation=True)
    drawn = fail_drawing(monkeypatch, failing=range(0), began=directory.stop.touch)
    with pytest.raises(StopRequested, match="stopped at step 0"):
        run_here(directory)
    assert drawn == [1]
    kept = {path.parent.name for path in directory.cache.rglob("*") if path.is_file()}
    assert kept == {picture.sha256 for picture in read_spec(directory).training.pictures}


def fail_drawing(
    monkeypatch: pytest.MonkeyPatch, *, failing: range, began: Callable[[], None] = lambda: None
) -> list[int]:
    """Have some pictures, counted from 1, come out as no numbers; answer the counts of those that were begun."""
    draw, drawn = Sd15Pipeline.draw, list[int]()

    def spoilt(self: Sd15Pipeline, *rest: Any) -> Any:
        drawn.append(len(drawn) + 1)
        began()
        if drawn[-1] in failing:
            raise NotFinite("the denoiser's latents came out as numbers that are not finite")
        return draw(self, *rest)

    monkeypatch.setattr(Sd15Pipeline, "draw", spoilt)
    return drawn


class TestMemory:
    def test_what_was_planned_and_what_was_taken_is_told(self, straight: RunDirectory) -> None:
        (plan,), (taken,) = said(straight, Planned), said(straight, MemoryTaken)
        assert (plan.dtype, plan.gradient_checkpointing, plan.micro_batch, plan.parts_in_turn) == (
            "float32",
            False,
            1,
            False,
        )
        assert 0 < plan.needed_bytes < plan.free_bytes
        assert taken.needed_bytes == plan.needed_bytes
        assert taken.peak_bytes > 0
        # After all that takes any: the last sample is drawn by then.
        assert isinstance(read_messages(straight)[-1], MemoryTaken)
        assert all(step.grad_norm > 0 and step.peak_bytes > 0 for step in said(straight, Step))

    def test_recomputing_activations_changes_no_bit(self, straight: RunDirectory, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base)
        change_spec(directory, leaner=1)
        run_here(directory)
        (plan,) = said(directory, Planned)
        assert plan.gradient_checkpointing
        assert "an earlier attempt ran out of memory" in plan.why
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))

    @pytest.mark.parametrize("prior", [False, True])
    def test_a_step_means_the_same_in_smaller_parts(self, base: Path, tmp_path: Path, prior: bool) -> None:
        """To the noise and the timestep of each picture, so that a plan, which asks how much memory happens to be
        free, decides nothing but the last digits."""
        whole_batch, parts = (
            make_run(tmp_path / name, base, max_train_steps=2, train_batch_size=4, with_prior_preservation=prior)
            for name in ("a", "b")
        )
        change_spec(parts, leaner=1)
        for directory in (whole_batch, parts):
            run_here(directory)
        assert [said(one, Planned)[0].micro_batch for one in (whole_batch, parts)] == [8 if prior else 4, 1]
        ours, theirs = ([(step.loss, step.grad_norm) for step in said(one, Step)] for one in (whole_batch, parts))
        assert ours == [pytest.approx(step, rel=1e-4) for step in theirs]
        last = [read_tensors(one.checkpoint(2) / checkpoint.RANDOMNESS) for one in (whole_batch, parts)]
        assert all(torch.equal(tensor, last[1][name]) for name, tensor in last[0].items())

    def test_running_out_of_memory_fails_with_its_reason_and_keeps_the_checkpoint(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=2)
        losses, calls = Sd15Objective.losses, 0

        def greedy(self: Sd15Objective, *rest: Any) -> torch.Tensor:
            nonlocal calls
            calls += torch.is_grad_enabled()
            if calls == 4:
                torch.empty(1 << 60, dtype=torch.uint8)
            return losses(self, *rest)

        monkeypatch.setattr(Sd15Objective, "losses", greedy)
        with pytest.raises(RunFailed, match="cpu ran out of memory") as failure:
            run_here(directory)
        assert failure.value.reason is Reason.OUT_OF_MEMORY
        assert whole(directory)[0] == "step-000002"
        assert not directory.manifest.exists()
        (taken,) = said(directory, MemoryTaken)
        assert taken.peak_bytes > 0


class TestFullDisk:
    def test_a_file_that_finds_no_room_ends_the_run_as_disk_full_and_loses_no_checkpoint(
        self, base: Path, tmp_path: Path
    ) -> None:
        """A process may write no file larger than its limit; the system's word for it reads like a full disk's."""
        directory = make_run(tmp_path / "run", base, checkpoint_every=2, max_train_steps=4)
        run_here(directory)
        for file in (directory.manifest, directory.events, weights(directory)):
            file.unlink()
        shutil.rmtree(directory.checkpoint(4))
        kept = whole(directory)
        room = max(path.stat().st_size for path in directory.checkpoint(2).iterdir()) - 1

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        ended = subprocess.run(
            command(directory), capture_output=True, text=True, timeout=PATIENCE, check=False, preexec_fn=limit
        )
        assert ended.returncode == 1, ended.stderr
        failed = said(directory, Failed)[-1]
        assert failed.reason is Reason.DISK_FULL, failed
        assert not directory.manifest.exists()
        assert whole(directory) == kept
        assert kept[0] == "step-000002"
