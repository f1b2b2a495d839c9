"""Whole runs with the real parts at a size that trains in seconds: as a process where that matters, else in place."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from msgspec.structs import replace
from PIL import Image

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import DrawRequest, LoraUse, sample_request
from maquette.core.errors import InvalidRequest
from maquette.core.files import file_sha256
from maquette.core.findings import FindingCode
from maquette.core.lifecycle import Reason
from maquette.core.processes import is_alive
from maquette.core.progress import (
    CheckpointSaved,
    Failed,
    Finished,
    Found,
    MemoryTaken,
    Phase,
    PhaseBegan,
    Started,
    Step,
    Stopped,
)
from maquette.core.registry import UnknownName
from maquette.core.rundir import LORA_FILES, Manifest, ProcessRecord, RunDirectory
from maquette.core.specs import LrScheduler, Optimizer, TrainingSettings
from maquette.core.weights import LoraLayout, read_header
from maquette.families.sd15.objective import Sd15Objective
from maquette.inference.draw import draw_all
from maquette.testing.runs import change_spec, make_run, read_messages, read_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer.attempt import Attempt
from maquette.trainer.export import PROVENANCE, Provenance
from maquette.trainer.failures import RunFailed, StopRequested
from maquette.trainer.loop import run
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision
from maquette.trainer.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.torch

Trained = Callable[[Path, dict[str, Any]], dict[str, torch.Tensor]]

PATIENCE = 120
WHOLE: dict[str, Any] = {
    "train_text_encoder": True,
    "with_prior_preservation": True,
    "lr_scheduler": LrScheduler.COSINE,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="module")
def velocities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that predicts velocities."""
    return build_tiny_base(tmp_path_factory.mktemp("bases") / "velocities", prediction_type="v_prediction")


@pytest.fixture(scope="module")
def straight(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run with everything switched on, that nothing disturbed."""
    directory = make_run(tmp_path_factory.mktemp("runs") / "straight", base, checkpoint_every=2, **WHOLE)
    start(directory, check=True)
    return directory


def command(directory: RunDirectory) -> list[str]:
    return [sys.executable, "-m", "maquette.trainer", str(directory.root)]


def start(directory: RunDirectory, *, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a trainer to its end."""
    return subprocess.run(command(directory), capture_output=True, text=True, timeout=PATIENCE, check=check)


def stopped(directory: RunDirectory, stop: Callable[[subprocess.Popen[bytes]], None]) -> int:
    """Start a trainer and stop it after its first step; answers the step at which it said that it stopped."""
    before = len(steps(directory)) if directory.events.exists() else 0
    with subprocess.Popen(command(directory)) as trainer:
        wait_for(lambda: directory.events.exists() and len(steps(directory)) > before)
        stop(trainer)
        assert trainer.wait(PATIENCE) == 0
    last = read_messages(directory)[-1]
    assert isinstance(last, Stopped)
    return last.step


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def steps(directory: RunDirectory) -> list[int]:
    return [message.step for message in read_messages(directory) if isinstance(message, Step)]


def checkpoints(directory: RunDirectory) -> list[int]:
    return [message.step for message in read_messages(directory) if isinstance(message, CheckpointSaved)]


def run_here(directory: RunDirectory, **settings: Any) -> Manifest:
    """Run an attempt in this process; `settings` go past the checks that reading a spec makes."""
    spec = read_spec(directory)
    training = replace(spec.training, settings=replace(spec.training.settings, **settings))
    spec = replace(spec, training=training)
    supervision = Supervision(directory)
    supervision.abandon_after = spec.abandon_after
    with Reporter(directory.events) as reporter:
        run(Attempt(directory, spec, supervision, reporter))
    manifest = directory.read(directory.manifest, Manifest)
    assert manifest is not None
    return manifest


def weights(directory: RunDirectory) -> Path:
    return directory.output / "lora.safetensors"


class TestFinishedRun:
    def test_it_tells_what_it_does(self, straight: RunDirectory) -> None:
        messages = read_messages(straight)
        assert isinstance(messages[0], Started)
        assert messages[0].resumed_from is None
        assert messages[0].versions["torch"] == torch.__version__
        phases = [message.phase.value for message in messages if isinstance(message, PhaseBegan)]
        assert phases == ["prepare", "cache", "train", "sample", "export"]
        assert steps(straight) == [1, 2, 3, 4, 5, 6]
        assert checkpoints(straight) == [2, 4, 6]
        assert isinstance(messages[-1], Finished)
        told = [message for message in messages if isinstance(message, Step)]
        assert all(step.total_steps == 6 and 0 < step.seconds < PATIENCE and step.loss > 0 for step in told)
        assert told[0].lr > told[-1].lr > 0

    def test_it_says_who_it_was(self, straight: RunDirectory) -> None:
        record = straight.read(straight.process, ProcessRecord)
        assert record is not None
        assert not is_alive(record)

    def test_it_took_about_as_much_memory_as_was_planned(self, straight: RunDirectory) -> None:
        """Which is next to nothing but what libraries take for themselves."""
        (taken,) = [message for message in read_messages(straight) if isinstance(message, MemoryTaken)]
        assert 0.5 < taken.peak_bytes / taken.needed_bytes < 1.1

    def test_its_manifest_names_files_that_are_as_it_says(self, straight: RunDirectory) -> None:
        manifest = straight.read(straight.manifest, Manifest)
        assert manifest is not None
        assert manifest.steps == 6
        assert abs(manifest.finished_at - time.time()) < 10 * PATIENCE
        losses = [message.loss for message in read_messages(straight) if isinstance(message, Step)]
        assert manifest.final_loss == pytest.approx(sum(losses) / 6)
        for record in (manifest.weights, manifest.sample):
            file = straight.root / record.path
            assert (file.stat().st_size, file_sha256(file)) == (record.size, record.sha256)

    def test_its_sample_is_a_picture_of_the_asked_size(self, straight: RunDirectory) -> None:
        with Image.open(straight.samples / "final.png") as sample:
            assert (sample.format, sample.size, sample.info) == ("PNG", (64, 64), {})

    def test_its_weights_say_where_they_come_from_and_nothing_of_this_run(self, straight: RunDirectory) -> None:
        metadata = read_header(weights(straight)).metadata
        told = msgspec.json.decode(metadata[PROVENANCE], type=Provenance)
        training = read_spec(straight).training
        assert (told.base, told.settings, told.sample) == (training.base, training.settings, training.sample)
        assert [picture.sha256 for picture in told.pictures] == [picture.sha256 for picture in training.pictures]
        assert told.versions["torch"] == torch.__version__
        text = json.dumps(metadata)
        assert not [word for word in ("a-task", "fence", "disc.png", str(straight.root.parent)) if word in text]

    def test_plain_diffusers_draws_its_sample(self, straight: RunDirectory, base: Path) -> None:
        parts: Any = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, safety_checker=None)
        parts.load_lora_weights(str(weights(straight)))
        asked = read_spec(straight).training.sample
        drawn = parts(
            prompt=asked.prompt,
            width=asked.width,
            height=asked.height,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            generator=torch.Generator().manual_seed(asked.seed),
        ).images[0]
        with Image.open(straight.samples / "final.png") as sample:
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(sample))


class TestResumedRun:
    def test_stopped_by_a_file_and_by_sigterm_and_resumed_it_ends_with_the_same_bytes(
        self, straight: RunDirectory, base: Path, tmp_path: Path
    ) -> None:
        directory = make_run(tmp_path / "run", base, checkpoint_every=100, **WHOLE)
        change_spec(directory, step_delay=0.5)
        by_file = stopped(directory, lambda _: directory.stop.touch())
        directory.stop.unlink()
        by_signal = stopped(directory, lambda trainer: trainer.send_signal(signal.SIGTERM))
        assert by_file < by_signal < 6
        assert checkpoints(directory) == [by_file, by_signal]
        assert not directory.manifest.exists()

        change_spec(directory, step_delay=0.0)
        run_here(directory)
        started = [message for message in read_messages(directory) if isinstance(message, Started)]
        assert [message.resumed_from for message in started] == [None, by_file, by_signal]
        assert steps(directory) == [1, 2, 3, 4, 5, 6]
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))

    def test_killed_and_resumed_elsewhere_it_ends_with_the_same_bytes(
        self, straight: RunDirectory, base: Path, tmp_path: Path
    ) -> None:
        killed = make_run(tmp_path / "killed", base, checkpoint_every=2, **WHOLE)
        change_spec(killed, step_delay=0.5)
        with subprocess.Popen(command(killed)) as trainer:
            wait_for(lambda: killed.events.exists() and checkpoints(killed) != [])
            os.kill(trainer.pid, signal.SIGKILL)
        directory = make_run(tmp_path / "next", base, checkpoint_every=2, **WHOLE)
        shutil.copytree(killed.checkpoint(2), directory.checkpoint(2))
        run_here(directory)
        assert steps(directory) == [3, 4, 5, 6]
        assert file_sha256(weights(directory)) == file_sha256(weights(straight))
        ends = [run.read(run.manifest, Manifest) for run in (directory, straight)]
        assert ends[0] is not None
        assert ends[1] is not None
        assert ends[0].sample == ends[1].sample
        assert ends[0].final_loss == ends[1].final_loss

    def test_killed_after_its_last_step_it_only_finishes(self, straight: RunDirectory, tmp_path: Path) -> None:
        directory = RunDirectory(tmp_path / "run")
        shutil.copytree(straight.root, directory.root)
        for file in (directory.manifest, directory.events, weights(directory)):
            file.unlink()
        run_here(directory)
        assert steps(directory) == []
        assert read_tensors(weights(directory)).keys() == read_tensors(weights(straight)).keys()

    def test_nobody_supervises_it_and_it_stops_by_itself(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base)
        change_spec(directory, abandon_after=0.0)
        with pytest.raises(StopRequested) as stop:
            run_here(directory)
        assert stop.value.step == 0
        assert checkpoints(directory) == []


# What must differ from what, for each of the settings: (settings of both runs, settings of the second).
PRIOR = {"with_prior_preservation": True}
TEXT = {"train_text_encoder": True}
TAGS = {"instance_prompt": "ohwx, a, b, c, d, e"}
WARM = {"lr_scheduler": LrScheduler.CONSTANT_WITH_WARMUP}
DECIDING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "train_batch_size": ({}, {"train_batch_size": 2}),
    "learning_rate": ({}, {"learning_rate": 2e-3}),
    "max_train_steps": ({}, {"max_train_steps": 3}),
    "seed": ({}, {"seed": 2}),
    "lr_scheduler": ({}, {"lr_scheduler": LrScheduler.LINEAR}),
    "lr_warmup_steps": (WARM, {"lr_warmup_steps": 2}),
    "instance_prompt": ({}, {"instance_prompt": "another"}),
    "class_prompt": (PRIOR, {"class_prompt": "another"}),
    "with_prior_preservation": ({}, PRIOR),
    "prior_loss_weight": (PRIOR, {"prior_loss_weight": 0.5}),
    "train_text_encoder": ({}, TEXT),
    "lora_r": ({}, {"lora_r": 5}),
    "lora_alpha": ({}, {"lora_alpha": 8}),
    "lora_text_encoder_r": (TEXT, {"lora_text_encoder_r": 5}),
    "lora_text_encoder_alpha": (TEXT, {"lora_text_encoder_alpha": 8}),
    "caption_dropout": ({}, {"caption_dropout": 1.0}),
    "shuffle_tags": (TAGS, {"shuffle_tags": True}),
    "random_flip": ({}, {"random_flip": True}),
    "optimizer": ({}, {"optimizer": Optimizer.PRODIGY}),
    "snr_gamma": ({}, {"snr_gamma": 1e-3}),
    "noise_offset": ({}, {"noise_offset": 0.1}),
    "zero_terminal_snr": ({}, {"zero_terminal_snr": True}),
}


def train_shortly(folder: Path, base: Path, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that two steps end in."""
    directory = make_run(folder / "run", base, **({"max_train_steps": 2, "lora_text_encoder_r": 4} | settings))
    run_here(directory)
    return read_tensors(weights(directory))


@pytest.fixture(scope="class")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trains shortly, on one base with the same settings once."""
    known: dict[tuple[Path, str], dict[str, torch.Tensor]] = {}

    def train(base: Path, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
        key = base, repr(sorted(settings.items()))
        if key not in known:
            known[key] = train_shortly(tmp_path_factory.mktemp("short"), base, settings)
        return known[key]

    return train


class TestSettings:
    def test_every_setting_is_covered(self) -> None:
        assert DECIDING.keys() == set(TrainingSettings.__struct_fields__)

    @pytest.mark.parametrize("field", DECIDING)
    def test_each_setting_decides_the_weights(self, base: Path, velocities: Path, trained: Trained, field: str) -> None:
        both, second = DECIDING[field]
        trained_on = velocities if field == "zero_terminal_snr" else base
        one, other = trained(trained_on, both), trained(trained_on, both | second)
        assert one.keys() != other.keys() or not all(
            one[name].shape == tensor.shape and torch.equal(one[name], tensor) for name, tensor in other.items()
        )

    @pytest.mark.parametrize("settings", [{}, PRIOR | TEXT | TAGS | {"shuffle_tags": True, "caption_dropout": 0.5}])
    def test_nothing_else_does(self, base: Path, trained: Trained, tmp_path: Path, settings: dict[str, Any]) -> None:
        one, again = trained(base, settings), train_shortly(tmp_path, base, settings)
        assert one.keys() == again.keys()
        assert all(torch.equal(one[name], tensor) for name, tensor in again.items())

    def test_the_loss_of_class_pictures_counts_by_its_weight(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches: list[list[float]] = []
        measure = Sd15Objective.losses

        def remembering(self: Sd15Objective, *rest: Any) -> torch.Tensor:
            losses = measure(self, *rest)
            if torch.is_grad_enabled():
                batches.append(losses.tolist())
            return losses

        monkeypatch.setattr(Sd15Objective, "losses", remembering)
        directory = make_run(
            tmp_path / "run", base, train_batch_size=2, max_train_steps=1, **PRIOR, prior_loss_weight=0.5
        )
        run_here(directory)
        # Two pictures and, behind them, two class pictures; all are of one size.
        ((*pictures, third, fourth),) = batches
        (step,) = [message for message in read_messages(directory) if isinstance(message, Step)]
        assert step.loss == pytest.approx(sum(pictures) / 2 + 0.5 * (third + fourth) / 2)

    def test_a_pictures_own_caption_replaces_the_instance_prompt(self, base: Path, tmp_path: Path) -> None:
        def losses(name: str, caption: str | None, instance_prompt: str) -> list[float]:
            directory = make_run(tmp_path / name, base, pictures=1, instance_prompt=instance_prompt, max_train_steps=2)
            training = read_spec(directory).training
            pictures = tuple(replace(picture, caption=caption) for picture in training.pictures)
            change_spec(directory, training=replace(training, pictures=pictures))
            run_here(directory)
            return [message.loss for message in read_messages(directory) if isinstance(message, Step)]

        captioned = losses("captioned", "a red disc", "something else")
        assert captioned == losses("prompted", None, "a red disc")
        assert captioned != losses("other", None, "something else")

    def test_parts_that_have_no_effect_are_told(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base, max_train_steps=1, instance_prompt="x" * 100)
        training = read_spec(directory).training
        first, second = training.pictures
        change_spec(
            directory,
            training=replace(
                training,
                preparation=replace(training.preparation, face_crop_ratio=1.4, face_restore="gfpgan_1.4"),
                pictures=(replace(first, caption="y" * 100), replace(second, caption="short")),
            ),
        )
        run_here(directory)
        found = [message.finding for message in read_messages(directory) if isinstance(message, Found)]
        assert [(one.code, one.picture) for one in found] == [
            (FindingCode.FACES_NOT_RESTORED, None),
            (FindingCode.NO_FACE, first.name),
            (FindingCode.NO_FACE, second.name),
            (FindingCode.CAPTION_CUT, first.name),
            (FindingCode.CAPTION_CUT, None),
        ]


class TestFailedRun:
    def test_a_base_that_can_not_be_trained_as_asked_is_told_before_anything_is_encoded(
        self, base: Path, tmp_path: Path
    ) -> None:
        directory = make_run(tmp_path / "run", base, zero_terminal_snr=True)
        with pytest.raises(InvalidRequest, match="zero_terminal_snr: the base predicts noise"):
            run_here(directory)
        told = [message.phase for message in read_messages(directory) if isinstance(message, PhaseBegan)]
        assert told == [Phase.PREPARE]

    def test_an_unreadable_picture_ends_the_process_with_its_name(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base)
        (directory.images / "1-disc.png").write_text("only words")
        ended = start(directory)
        assert ended.returncode == 1
        assert "RunFailed" in ended.stderr
        failed = read_messages(directory)[-1]
        assert isinstance(failed, Failed)
        assert failed.reason is Reason.BAD_DATASET
        assert failed.message.startswith("1-disc.png: ")
        assert not directory.manifest.exists()

    @pytest.mark.parametrize("content", [None, b"{", b'{"task_id": 3}'])
    def test_without_a_readable_spec_it_fails_in_words(self, tmp_path: Path, content: bytes | None) -> None:
        directory = RunDirectory(tmp_path)
        directory.create()
        if content:
            directory.spec.write_bytes(content)
        assert start(directory).returncode == 1
        failed = read_messages(directory)[-1]
        assert isinstance(failed, Failed)
        assert failed.reason is Reason.INTERNAL

    def test_called_wrongly_it_says_how(self, tmp_path: Path) -> None:
        ended = start(RunDirectory(tmp_path / "nowhere"))
        assert (ended.returncode, ended.stderr) == (2, "usage: python -m maquette.trainer RUN_DIR\n")

    def test_a_loss_that_is_no_number_ends_the_run(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base, max_train_steps=40)
        with pytest.raises(RunFailed, match="try a lower learning_rate") as failure:
            run_here(directory, learning_rate=1e30)
        assert failure.value.reason is Reason.DIVERGED
        assert not weights(directory).exists()

    def test_a_base_that_changed_is_refused(self, base: Path, tmp_path: Path) -> None:
        moved = tmp_path / "base"
        shutil.copytree(base, moved)
        directory = make_run(tmp_path / "run", moved)
        (moved / "scheduler" / "scheduler_config.json").write_text("{}")
        with pytest.raises(BrokenBase, match="is not what was registered"):
            run_here(directory)

    def test_a_family_nobody_brought_is_refused(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base)
        training = read_spec(directory).training
        change_spec(directory, training=replace(training, base=replace(training.base, family="sdxxl")))
        with pytest.raises(UnknownName, match="no family 'sdxxl'"):
            run_here(directory)

    def test_what_can_not_be_computed_alike_twice_is_an_error(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A family that asked for it would break equal runs' equal bytes."""
        losses = Sd15Objective.losses

        def careless(self: Sd15Objective, *rest: Any) -> torch.Tensor:
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
            return losses(self, *rest)

        monkeypatch.setattr(Sd15Objective, "losses", careless)
        # Of whatever ran in this process before.
        torch.use_deterministic_algorithms(False)
        with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
            run_here(make_run(tmp_path / "run", base))

    def test_more_memory_than_there_is_is_told(self, base: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", base)
        with pytest.raises(RunFailed, match="cpu ran out of memory") as failure:
            run_here(directory, lora_r=1 << 44)
        assert failure.value.reason is Reason.OUT_OF_MEMORY


class TestDrawing:
    def draw(self, base: Path, folder: Path, requests: object) -> subprocess.CompletedProcess[str]:
        wanted = folder / "requests.json"
        wanted.write_bytes(msgspec.json.encode(requests))
        program = [sys.executable, "-m", "maquette.inference", "draw", "--base", str(base), str(wanted), str(folder)]
        return subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def test_the_worker_draws_what_the_trainer_drew_and_refuses_a_lora_of_another_model_in_words(
        self, straight: RunDirectory, base: Path, tmp_path: Path
    ) -> None:
        foreign = tmp_path / "foreign.safetensors"
        foreign.write_bytes(weights(straight).read_bytes().replace(b"unet.", b"nest."))
        plain = sample_request(read_spec(straight).training.sample)
        trained, refused = (replace(plain, loras=(LoraUse(str(file)),)) for file in (weights(straight), foreign))
        ended = self.draw(base, tmp_path, [plain, trained, plain, refused])
        assert ended.returncode == 1
        (words,) = ended.stderr.splitlines()
        assert "keys match no layer of this base: nest." in words
        drawn = [path.read_bytes() for path in sorted(tmp_path.glob("*.png"))]
        assert len(drawn) == 3
        assert drawn[1] == (straight.samples / "final.png").read_bytes()
        assert drawn[0] == drawn[2] != drawn[1]

    def test_one_trained_down_to_no_signal_is_drawn_from_there_by_all(self, velocities: Path, tmp_path: Path) -> None:
        directory = make_run(tmp_path / "run", velocities, max_train_steps=2, zero_terminal_snr=True)
        run_here(directory)
        plain = sample_request(read_spec(directory).training.sample)
        untold = tmp_path / "untold.safetensors"
        write_tensors(untold, read_tensors(weights(directory)), {})
        files = (weights(directory), directory.output / LORA_FILES[LoraLayout.KOHYA], untold)
        draw_all(velocities, [replace(plain, loras=(LoraUse(str(file)),)) for file in files], tmp_path, "cpu")
        trained, ours, kohya, other = (
            np.asarray(Image.open(file), dtype=np.int16)
            for file in (directory.samples / "final.png", *(tmp_path / f"{index:03d}.png" for index in range(3)))
        )
        np.testing.assert_array_equal(ours, trained)
        np.testing.assert_allclose(kohya, trained, atol=2)
        assert np.abs(other - trained).mean() > 1
        parts: Any = StableDiffusionPipeline.from_pretrained(velocities, local_files_only=True, safety_checker=None)
        parts.load_lora_weights(str(weights(directory)))
        parts.scheduler = DDIMScheduler.from_config(
            parts.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        by_diffusers = parts(
            prompt=plain.prompt,
            width=plain.width,
            height=plain.height,
            num_inference_steps=plain.steps,
            guidance_scale=plain.guidance_scale,
            generator=torch.Generator().manual_seed(plain.seed),
        ).images[0]
        np.testing.assert_allclose(np.asarray(by_diffusers, dtype=np.int16), trained, atol=2)

    def test_a_missing_base_is_told(self, tmp_path: Path) -> None:
        request = DrawRequest(prompt="a", width=64, height=64, steps=1, guidance_scale=1.0, seed=1)
        ended = self.draw(tmp_path / "nowhere", tmp_path, [request])
        assert ended.returncode == 1
        assert "model_index.json does not exist" in ended.stderr

    def test_requests_that_are_none_are_told(self, base: Path, tmp_path: Path) -> None:
        ended = self.draw(base, tmp_path, [{"prompt": "a"}])
        assert ended.returncode == 2
        assert "missing required field `width`" in ended.stderr
        nothing = self.draw(base, tmp_path, [])
        assert nothing.returncode == 2
        assert "requests.json: an empty list" in nothing.stderr
