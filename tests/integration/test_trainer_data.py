"""Whole runs on pictures of many kinds, and what a tenant's runs share."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image
from torch import Generator, Tensor, is_grad_enabled, nan, randint, uint8

from maquette.core.files import file_sha256
from maquette.core.findings import FindingCode
from maquette.core.progress import Found
from maquette.core.rundir import RunDirectory
from maquette.core.specs import Picture
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.families.sdxl.pipeline import SdxlPipeline
from maquette.testing.runs import SIDE, carry_out, change_spec, make_run, read_messages, read_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.testing.tiny_sdxl import build_tiny_sdxl
from maquette.trainer.cache import PROMPTS
from maquette.trainer.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.torch

PATIENCE = 240
EVERYTHING: dict[str, Any] = {
    "with_prior_preservation": True,
    "random_flip": True,
    "shuffle_tags": True,
    "caption_dropout": 0.3,
    "instance_prompt": "ohwx disc, red, round, large",
    "train_batch_size": 2,
    "max_train_steps": 4,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


class Asked:
    """How often a pipeline was asked for what takes long."""

    def __init__(self) -> None:
        self.pictures = self.prompts = self.drawn = 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    encode_pictures, encode_prompts, draw = (
        Sd15Pipeline.encode_pictures,
        Sd15Pipeline.encode_prompts,
        Sd15Pipeline.draw,
    )

    def counting_pictures(self: Sd15Pipeline, *args: Any) -> Any:
        asked.pictures += 1
        return encode_pictures(self, *args)

    def counting_prompts(self: Sd15Pipeline, *args: Any) -> Any:
        asked.prompts += 1
        return encode_prompts(self, *args)

    def counting_draw(self: Sd15Pipeline, *args: Any) -> Any:
        asked.drawn += 1
        return draw(self, *args)

    monkeypatch.setattr(Sd15Pipeline, "encode_pictures", counting_pictures)
    monkeypatch.setattr(Sd15Pipeline, "encode_prompts", counting_prompts)
    monkeypatch.setattr(Sd15Pipeline, "draw", counting_draw)
    return asked


def train(root: Path, base: Path, cache: Path | None = None, **settings: Any) -> RunDirectory:
    directory = make_run(root, base, **settings)
    change_spec(directory, cache_path=str(cache or ""))
    carry_out(directory)
    return directory


def lora(directory: RunDirectory) -> str:
    return file_sha256(directory.output / "lora.safetensors")


class TestSharedCache:
    def test_a_second_run_encodes_and_draws_nothing_and_ends_with_the_same_bytes(
        self, base: Path, tmp_path: Path, asked: Asked
    ) -> None:
        alone = train(tmp_path / "alone", base, **EVERYTHING)
        first = train(tmp_path / "first", base, tmp_path / "shared", **EVERYTHING)
        # Two pictures and their mirror images, four class pictures; those drawn, and the sample.
        assert (asked.pictures, asked.drawn) == (2 * (2 * 2 + 4), 2 * (4 + 1))
        asked.pictures = asked.prompts = asked.drawn = 0
        second = train(tmp_path / "second", base, tmp_path / "shared", **EVERYTHING)
        assert (asked.pictures, asked.prompts, asked.drawn) == (0, 0, 1)
        assert lora(first) == lora(second) == lora(alone)

    def test_tasks_with_other_seeds_share_class_pictures(self, base: Path, tmp_path: Path, asked: Asked) -> None:
        settings = EVERYTHING | {"random_flip": False}
        train(tmp_path / "first", base, tmp_path / "shared", seed=1, **settings)
        asked.pictures = asked.drawn = 0
        train(tmp_path / "second", base, tmp_path / "shared", seed=2, lora_r=5, **settings)
        assert (asked.pictures, asked.drawn) == (0, 1)

    def test_what_is_damaged_is_made_anew(self, base: Path, tmp_path: Path, asked: Asked) -> None:
        """A bit of one picture's latents, a note of the other's, and of its prompt what an older version kept."""
        first = train(tmp_path / "first", base, tmp_path / "shared", max_train_steps=1)
        kept = {file: file.read_bytes() for file in (tmp_path / "shared").rglob("*.safetensors")}
        (prompt,) = (file for file in kept if file.parent.name == PROMPTS)
        one, other = kept.keys() - {prompt}
        one.write_bytes(kept[one][:-1] + bytes([kept[one][-1] ^ 1]))
        other.write_bytes(kept[other].replace(b"sharpness", b"sharpnesS"))
        write_tensors(prompt, {name: tensor * nan for name, tensor in read_tensors(prompt).items()})
        assert all(file.read_bytes() != data for file, data in kept.items())
        asked.pictures = asked.prompts = 0
        assert lora(train(tmp_path / "second", base, tmp_path / "shared", max_train_steps=1)) == lora(first)
        assert (asked.pictures, asked.prompts) == (2, 1)
        assert {file: file.read_bytes() for file in kept} == kept

    def test_runs_side_by_side_do_not_disturb_each_other(self, base: Path, tmp_path: Path) -> None:
        """One begins while the other is among its pictures; the limit lets them delete each other's files."""
        alone = train(tmp_path / "alone", base, max_train_steps=1)
        both = [make_run(tmp_path / name, base, max_train_steps=1) for name in ("one", "other")]
        for directory in both:
            change_spec(directory, cache_path=str(tmp_path / "shared"), cache_bytes=10_000)
        trainers = [
            subprocess.Popen([sys.executable, "-m", "maquette.trainer", str(directory.root)]) for directory in both
        ]
        assert [trainer.wait(PATIENCE) for trainer in trainers] == [0, 0]
        assert {lora(directory) for directory in both} == {lora(alone)}


def with_pictures(directory: RunDirectory, *sizes: tuple[int, int]) -> None:
    """Put noise of these sizes in place of a run's pictures."""
    pictures: list[Picture] = []
    for index, size in enumerate(sizes):
        path = directory.images / f"{index}-noise.png"
        noise = randint(0, 256, (*reversed(size), 3), generator=Generator().manual_seed(size[0] * size[1]), dtype=uint8)
        Image.fromarray(noise.numpy()).save(path)
        pictures.append(Picture(path.name, file_sha256(path)))
    training = read_spec(directory).training
    preparation = replace(training.preparation, width=192, height=192, buckets=True)
    change_spec(directory, training=replace(training, pictures=tuple(pictures), preparation=preparation))


class TestBuckets:
    def test_pictures_of_all_shapes_are_learned_from_in_one_run(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[tuple[int, ...]] = []
        predict = Sd15Pipeline.predict

        def listening(self: Sd15Pipeline, latents: Tensor, *rest: Any) -> Tensor:
            if is_grad_enabled():
                shown.append(tuple(latents.shape))
            return predict(self, latents, *rest)

        def trained(name: str) -> RunDirectory:
            directory = make_run(tmp_path / name, base, train_batch_size=3, max_train_steps=4)
            with_pictures(directory, (400, 400), (400, 200), (200, 400), (500, 240))
            carry_out(directory)
            return directory

        one = trained("one")
        monkeypatch.setattr(Sd15Pipeline, "predict", listening)
        again = trained("again")
        assert lora(one) == lora(again)
        assert not [message for message in read_messages(one) if isinstance(message, Found)]
        # Each step shows all its pictures at once, whatever the shape: they are of one.
        assert [pictures for pictures, *_ in shown] == [3] * 4
        assert len({shape[2:] for shape in shown}) > 1


def test_stable_diffusion_xl_learns_with_what_each_picture_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[float]] = []
    predict = SdxlPipeline.predict

    def listening(self: SdxlPipeline, latents: Any, timesteps: Any, conditioning: Any) -> Any:
        told.extend(conditioning["originals"].tolist() if "originals" in conditioning else ())
        return predict(self, latents, timesteps, conditioning)

    monkeypatch.setattr(SdxlPipeline, "predict", listening)
    base = build_tiny_sdxl(tmp_path / "base")
    directory = make_run(tmp_path / "run", base, max_train_steps=2, with_prior_preservation=True)
    with_pictures(directory, (400, 240), (240, 480))
    training = read_spec(directory).training
    change_spec(directory, training=replace(training, preparation=replace(training.preparation, buckets=False)))
    carry_out(directory)
    originals = {(height, width) for height, width, _, _ in told}
    # The two pictures, and class pictures, which are whole.
    assert originals == {(240, 400), (480, 240), (SIDE, SIDE)}
    assert all(top == left == 0 for height, width, top, left in told if (height, width) == (SIDE, SIDE))
    # A square of 240 pixels becomes one of 192: of the rest 0 to 128, or 192, are cut off before it.
    assert all(top == 0 and left <= 128 for height, _, top, left in told if height == 240)
    assert all(left == 0 and top <= 192 for height, _, top, left in told if height == 480)


def test_findings_are_told_before_the_base_is_loaded(base: Path, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", base, max_train_steps=1)
    with_pictures(directory, (100, 100), (100, 100))
    change_spec(directory, base_path=str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match="nowhere"):
        carry_out(directory)
    found = [message.finding for message in read_messages(directory) if isinstance(message, Found)]
    assert [one.code for one in found] == [FindingCode.TOO_SMALL] * 2 + [FindingCode.NEAR_DUPLICATE]


def test_what_is_hardly_a_picture_is_trained_on_and_told_to_be_too_small(base: Path, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", base, max_train_steps=1)
    with_pictures(directory, (2, 3), (1, 300))
    training = read_spec(directory).training
    preparation = replace(training.preparation, width=2 * SIDE, height=SIDE, buckets=False)
    change_spec(directory, training=replace(training, preparation=preparation))
    carry_out(directory)
    found = [message.finding for message in read_messages(directory) if isinstance(message, Found)]
    assert [one.code for one in found] == [FindingCode.TOO_SMALL] * 2
    assert directory.manifest.exists()
