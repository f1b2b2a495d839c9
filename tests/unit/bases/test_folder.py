"""What makes a folder a base. The folders here have the layout and real headers, and next to no weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from maquette.bases.folder import BaseFolder, inspect_base
from maquette.core.basefolder import BrokenBase
from maquette.families.registry import layouts

DECLARED = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


CONFIGS = {
    **dict.fromkeys(WEIGHTS, "config.json"),
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
}


def inspect(folder: Path) -> BaseFolder:
    return inspect_base(folder, layouts())


def write_weights(path: Path, value: int) -> None:
    save_file({"weight": np.full(4, value, np.uint8)}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "base"
    for name, config in CONFIGS.items():
        (root / name).mkdir(parents=True)
        (root / name / config).write_text(json.dumps({"component": name}))
    for value, (name, file) in enumerate(WEIGHTS.items()):
        write_weights(root / name / file, value)
    (root / "model_index.json").write_text(json.dumps(DECLARED))
    return root


def test_a_whole_folder_is_a_base(folder: Path) -> None:
    base = inspect(folder)
    assert (base.family, base.path) == ("sd15", folder)


def test_the_hash_stays_when_the_folder_moves_or_its_card_changes(folder: Path, tmp_path: Path) -> None:
    before = inspect(folder).sha256
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("a model card")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "leftover.json").write_text("{}")
    assert inspect(copy).sha256 == before


@pytest.mark.parametrize("change", ["weights", "config", "name"])
def test_the_hash_changes_with_what_the_base_draws(folder: Path, change: str) -> None:
    before = inspect(folder).sha256
    match change:
        case "weights":
            write_weights(folder / "vae" / WEIGHTS["vae"], 9)
        case "config":
            (folder / "scheduler" / CONFIGS["scheduler"]).write_text('{"prediction_type": "v_prediction"}')
        case _:
            (folder / "vae" / WEIGHTS["vae"]).rename(folder / "vae" / "other.safetensors")
    assert inspect(folder).sha256 != before


def test_a_missing_folder_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        BrokenBase,
        match=r"nowhere: expected a checkpoint, which is a folder in diffusers layout with a .*, found nothing",
    ):
        inspect(tmp_path / "nowhere")


def test_an_index_that_is_no_json_is_told(folder: Path) -> None:
    (folder / "model_index.json").write_text("not json")
    with pytest.raises(BrokenBase, match=r"model_index.json can't be read"):
        inspect(folder)


@pytest.mark.parametrize("pipeline", ["StableDiffusion3Pipeline", "QwenImagePipeline", "UnheardOfPipeline", None, 3])
def test_a_pipeline_of_no_family_here_is_refused_with_those_there_are(folder: Path, pipeline: object) -> None:
    (folder / "model_index.json").write_text(json.dumps(DECLARED | {"_class_name": pipeline}))
    with pytest.raises(BrokenBase, match=r"; this installation has sd15 \(StableDiffusionPipeline\), sdxl"):
        inspect(folder)


def test_an_index_that_declares_nothing_is_told_what_it_lacks(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name":"StableDiffusionPipeline"}')
    with pytest.raises(
        BrokenBase, match=r"declares no unet, vae, text_encoder, tokenizer, scheduler, which a base of the"
    ):
        inspect(folder)


@pytest.mark.parametrize("component", CONFIGS)
def test_a_component_that_is_declared_as_absent_is_told(folder: Path, component: str) -> None:
    (folder / "model_index.json").write_text(json.dumps(DECLARED | {component: [None, None]}))
    with pytest.raises(BrokenBase, match=f"declares no {component}, which a base of the family sd15 needs"):
        inspect(folder)


@pytest.mark.parametrize("component", CONFIGS)
@pytest.mark.parametrize("content", [None, "not json", "[]"])
def test_a_component_without_its_configuration_is_told(folder: Path, component: str, content: str | None) -> None:
    config = folder / component / CONFIGS[component]
    config.write_text(content) if content else config.unlink()
    problem = "can't be read" if content else "does not exist"
    with pytest.raises(BrokenBase, match=f"{component}/{config.name} {problem}"):
        inspect(folder)


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_a_component_of_another_class_than_declared_is_told(folder: Path, component: str) -> None:
    (folder / component / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises(
        BrokenBase, match=f"{component}/config.json: expected .*, as .* declares, found AutoencoderTiny"
    ):
        inspect(folder)


def test_what_no_one_loads_may_be_missing(folder: Path) -> None:
    index = DECLARED | {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert inspect(folder).family == "sd15"


def test_a_missing_component_is_told(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    with pytest.raises(BrokenBase, match=r"vae does not exist, but model_index.json declares it"):
        inspect(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "unet" / WEIGHTS["unet"]).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BrokenBase, match=r"unet holds pickled weights only; convert them to safetensors"):
        inspect(folder)


def test_missing_weights_are_told(folder: Path) -> None:
    (folder / "unet" / WEIGHTS["unet"]).unlink()
    with pytest.raises(BrokenBase, match=r"unet holds no \*.safetensors file"):
        inspect(folder)


def test_cut_off_weights_are_told(folder: Path) -> None:
    path = folder / "unet" / WEIGHTS["unet"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenBase, match=r"unet/diffusion_pytorch_model.safetensors"):
        inspect(folder)


class TestOneFile:
    @pytest.fixture
    def bare(self, folder: Path) -> Path:
        """A folder whose components have no weights."""
        for name, file in WEIGHTS.items():
            (folder / name / file).unlink()
        return folder

    def test_weights_in_one_file_beside_the_components_are_a_base(self, bare: Path) -> None:
        write_weights(bare / "all.safetensors", 1)
        base = inspect(bare)
        assert base.family == "sd15"
        write_weights(bare / "all.safetensors", 2)
        assert inspect(bare).sha256 != base.sha256

    def test_a_component_may_have_its_own_beside_the_file(self, bare: Path) -> None:
        write_weights(bare / "all.safetensors", 1)
        write_weights(bare / "vae" / WEIGHTS["vae"], 2)
        assert inspect(bare).family == "sd15"
        (bare / "vae" / WEIGHTS["vae"]).write_bytes(b"no weights")
        with pytest.raises(BrokenBase, match="vae"):
            inspect(bare)

    def test_several_such_files_are_refused(self, bare: Path) -> None:
        write_weights(bare / "all.safetensors", 1)
        write_weights(bare / "ema.safetensors", 2)
        with pytest.raises(BrokenBase, match=r"holds 2 files of weights beside its folders; leave one: all\.saf"):
            inspect(bare)

    def test_a_damaged_file_is_refused(self, bare: Path) -> None:
        write_weights(bare / "all.safetensors", 1)
        with (bare / "all.safetensors").open("r+b") as file:
            file.truncate(20)
        with pytest.raises(BrokenBase, match=r"all\.safetensors: "):
            inspect(bare)

    def test_where_the_folders_are_whole_such_files_play_no_part(self, folder: Path) -> None:
        write_weights(folder / "all.safetensors", 1)
        write_weights(folder / "ema.safetensors", 2)
        assert inspect(folder).family == "sd15"
