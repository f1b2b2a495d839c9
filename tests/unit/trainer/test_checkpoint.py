"""Checkpoints of a network of one layer: what matters is what is kept, not what is learned."""

import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch.nn import Parameter

from maquette.core.files import file_sha256
from maquette.core.metrics import RECENT_LOSSES
from maquette.core.rundir import CHECKPOINT_LORA, CHECKPOINT_MANIFEST, CheckpointManifest, FileRecord, RunDirectory
from maquette.core.specs import LrScheduler, Optimizer, TrainingSpec
from maquette.core.weights import read_header
from maquette.testing.factories import training_spec
from maquette.trainer import checkpoint, tensors
from maquette.trainer.checkpoint import Extras, TrainingState
from maquette.trainer.optim import build_lr_scheduler, build_optimizer, scalars
from maquette.trainer.randomness import Randomness
from maquette.trainer.tensors import read_tensors

pytestmark = pytest.mark.torch

PLAIN = training_spec(steps=20)
SPEC = replace(PLAIN, settings=replace(PLAIN.settings, lr_scheduler=LrScheduler.COSINE, lr_warmup_steps=3))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    directory.create()
    return directory


def fresh_state(spec: TrainingSpec = SPEC) -> TrainingState:
    randomness = Randomness(spec.settings.seed, 3, 2, torch.device("cpu"))
    parameters = {"a.weight": Parameter(torch.randn(4, 3)), "b.weight": Parameter(torch.randn(2))}
    optimizer = build_optimizer(parameters.values(), spec.settings)
    return TrainingState(parameters, optimizer, build_lr_scheduler(optimizer, spec.settings), randomness)


def take_steps(state: TrainingState, count: int) -> None:
    for _ in range(count):
        rows = state.randomness.instances.take(2) + state.randomness.classes.take(1)
        noise = torch.randn(4, 3, generator=state.randomness.noise) + torch.rand(1)
        loss = (state.parameters["a.weight"] * noise).square().sum() + sum(rows) * state.parameters["b.weight"].sum()
        loss.backward()
        state.optimizer.step()
        state.lr_scheduler.step()
        state.optimizer.zero_grad()
        state.advance(loss.item())


def keep(directory: RunDirectory, state: TrainingState, *, keep_every: int = 0) -> None:
    checkpoint.save(directory, state, SPEC, Extras(header={"made": "here"}, probe=0.25), keep_every=keep_every)


def everything(state: TrainingState) -> dict[str, object]:
    """What a state holds, in a form that compares."""
    return {
        "parameters": {name: parameter.tolist() for name, parameter in state.parameters.items()},
        "moments": [
            {key: value.tolist() for key, value in state.optimizer.state[parameter].items()}
            for parameter in state.parameters.values()
        ],
        "lr": [group["lr"] for group in state.optimizer.param_groups],
        "schedule": {key: value for key, value in state.lr_scheduler.state_dict().items() if key != "lr_lambdas"},
        "random": {name: tensor.tolist() for name, tensor in state.randomness.tensors().items()},
        "step": state.step,
        "losses": state.losses,
    }


def test_a_restored_run_goes_on_as_if_never_interrupted(directory: RunDirectory) -> None:
    straight = fresh_state()
    take_steps(straight, 5)
    keep(directory, straight)
    take_steps(straight, 6)
    straight_end = everything(straight)

    resumed = fresh_state()
    path = checkpoint.newest(directory, SPEC)
    assert path is not None
    assert path == directory.checkpoint(5)
    assert checkpoint.step_of(path) == 5
    checkpoint.restore(path, resumed)
    take_steps(resumed, 6)
    assert everything(resumed) == straight_end


def test_a_checkpoint_holds_no_pickle(directory: RunDirectory) -> None:
    state = fresh_state()
    take_steps(state, 1)
    keep(directory, state)
    assert {file.suffix for file in directory.checkpoint(1).iterdir()} == {".safetensors", ".json"}
    assert [path.name for path in directory.checkpoints.iterdir()] == ["step-000001"]


def test_a_checkpoint_that_the_disk_changed_is_none(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fresh_state()
    take_steps(state, 1)
    keep(directory, state)
    take_steps(state, 1)

    def lose_a_bit(path: Path, data: bytes) -> None:
        changed = data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes(changed if path.name == CHECKPOINT_LORA else data)

    monkeypatch.setattr(tensors, "write_atomic", lose_a_bit)
    with pytest.raises(OSError, match="does not read back as it was written"):
        keep(directory, state)
    assert list(checkpoint.whole(directory, SPEC)) == [directory.checkpoint(1)]


def test_samples_come_to_a_checkpoint_that_is_whole_without_them(directory: RunDirectory) -> None:
    state = fresh_state()
    take_steps(state, 1)
    keep(directory, state)
    before = checkpoint.newest(directory, SPEC)
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for _ in range(2):
        checkpoint.add_samples(directory, 1, pictures)
    assert checkpoint.newest(directory, SPEC) == before == directory.checkpoint(1)
    manifest = directory.read(directory.checkpoint(1) / CHECKPOINT_MANIFEST, CheckpointManifest)
    assert manifest is not None
    there = {path.name for path in directory.checkpoint(1).iterdir()} - {CHECKPOINT_MANIFEST}
    assert sorted(file.path for file in manifest.files) == sorted(there)
    assert there >= {"sample-0.png", "sample-1.png"}


def test_every_so_manyth_checkpoint_stays_for_good(directory: RunDirectory) -> None:
    state = fresh_state()
    keep(directory, state, keep_every=2)
    for _ in range(7):
        take_steps(state, 1)
        keep(directory, state, keep_every=2)
    kept = sorted(path.name for path in directory.checkpoints.iterdir())
    assert kept == ["step-000002", "step-000004", "step-000006", "step-000007"]


def test_a_run_is_taken_back_to_its_beginning_and_repeats_itself(directory: RunDirectory) -> None:
    state = fresh_state()
    keep(directory, state)
    before = everything(state)
    take_steps(state, 3)
    first = everything(state)
    path = checkpoint.newest(directory, SPEC)
    assert path is not None
    checkpoint.restore(path, state)
    assert everything(state) == before
    take_steps(state, 3)
    assert everything(state) == first


def test_prodigy_goes_on_as_if_never_interrupted(directory: RunDirectory) -> None:
    spec = replace(SPEC, settings=replace(SPEC.settings, optimizer=Optimizer.PRODIGY))
    straight = fresh_state(spec)
    take_steps(straight, 5)
    keep(directory, straight)
    take_steps(straight, 4)
    resumed = fresh_state(spec)
    checkpoint.restore(directory.checkpoint(5), resumed)
    take_steps(resumed, 4)
    assert everything(resumed) == everything(straight)
    assert scalars(resumed.optimizer) == scalars(straight.optimizer)
    assert scalars(resumed.optimizer)["numerator"] != 0


def test_its_lora_is_a_file_of_its_own_and_its_probe_is_told(directory: RunDirectory) -> None:
    state = fresh_state()
    take_steps(state, 1)
    keep(directory, state)
    lora = directory.checkpoint(1) / CHECKPOINT_LORA
    assert read_header(lora).metadata == {"made": "here"}
    assert set(read_tensors(lora)) == {"a.weight", "b.weight"}
    assert checkpoint.probe_of(directory.checkpoint(1)) == 0.25


def test_the_newest_two_stay(directory: RunDirectory) -> None:
    state = fresh_state()
    for _ in range(4):
        take_steps(state, 1)
        keep(directory, state)
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["step-000003", "step-000004"]


@pytest.mark.parametrize("damage", ["cut off", "other bytes", "file missing", "no manifest", "manifest cut off"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(directory: RunDirectory, damage: str) -> None:
    state = fresh_state()
    for _ in range(2):
        take_steps(state, 1)
        keep(directory, state)
    weights = directory.checkpoint(2) / CHECKPOINT_LORA
    manifest = directory.checkpoint(2) / CHECKPOINT_MANIFEST
    match damage:
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "other bytes":
            weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        case "file missing":
            weights.unlink()
        case "no manifest":
            manifest.unlink()
        case _:
            manifest.write_bytes(manifest.read_bytes()[:-5])
    assert checkpoint.newest(directory, SPEC) == directory.checkpoint(1)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(directory: RunDirectory) -> None:
    state = fresh_state()
    take_steps(state, 1)
    keep(directory, state)
    (directory.checkpoint(1) / checkpoint.OPTIMIZER).unlink()
    keep(directory, state)
    assert checkpoint.newest(directory, SPEC) == directory.checkpoint(1)


def test_a_damaged_checkpoint_ahead_takes_nobodys_place(directory: RunDirectory) -> None:
    ahead, state = fresh_state(), fresh_state()
    take_steps(ahead, 5)
    keep(directory, ahead)
    (directory.checkpoint(5) / checkpoint.OPTIMIZER).unlink()
    for _ in range(3):
        take_steps(state, 1)
        keep(directory, state)
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["step-000002", "step-000003"]


def test_a_checkpoint_of_another_version_is_passed_over(directory: RunDirectory) -> None:
    state = fresh_state()
    for _ in range(2):
        take_steps(state, 1)
        keep(directory, state)
    newest = directory.checkpoint(2)
    (newest / checkpoint.PROGRESS).write_bytes(b'{"from": "the future"}')
    files = tuple(
        FileRecord(path.name, path.stat().st_size, file_sha256(path))
        for path in newest.iterdir()
        if path.name != CHECKPOINT_MANIFEST
    )
    directory.write(newest / CHECKPOINT_MANIFEST, CheckpointManifest(step=2, files=files))
    assert checkpoint.newest(directory, SPEC) == directory.checkpoint(1)


def test_what_a_killed_trainer_left_half_written_is_no_checkpoint(directory: RunDirectory) -> None:
    state = fresh_state()
    take_steps(state, 1)
    keep(directory, state)
    whole = directory.checkpoint(1)
    shutil.move(whole, whole.with_name(f"{checkpoint.PARTIAL}{whole.name}"))
    assert checkpoint.newest(directory, SPEC) is None
    keep(directory, state)
    assert [path.name for path in directory.checkpoints.iterdir()] == ["step-000001"]


def test_a_checkpoint_of_another_spec_is_not_ours(directory: RunDirectory) -> None:
    state = fresh_state()
    take_steps(state, 1)
    keep(directory, state)
    assert checkpoint.newest(directory, replace(SPEC, settings=replace(SPEC.settings, seed=2))) is None


def test_only_recent_losses_are_kept() -> None:
    state = fresh_state()
    for loss in range(RECENT_LOSSES + 10):
        state.advance(float(loss))
    assert state.step == RECENT_LOSSES + 10
    assert state.losses == [float(loss) for loss in range(10, RECENT_LOSSES + 10)]
    assert state.recent_loss == pytest.approx(34.5)


def test_the_bases_loss_goes_along_and_an_older_trainers_checkpoint_may_lack_it(directory: RunDirectory) -> None:
    state = fresh_state()
    state.base_loss = 0.25
    take_steps(state, 1)
    keep(directory, state)
    resumed = fresh_state()
    checkpoint.restore(directory.checkpoint(1), resumed)
    assert resumed.base_loss == 0.25
    progress = directory.checkpoint(1) / checkpoint.PROGRESS
    written = msgspec.json.decode(progress.read_bytes())
    del written["base_loss"]
    progress.write_bytes(msgspec.json.encode(written))
    checkpoint.restore(directory.checkpoint(1), resumed)
    assert (resumed.step, resumed.base_loss) == (1, None)
