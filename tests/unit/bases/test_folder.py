"""What makes a folder a base. The folders here have the layout and real headers, and next to no weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from maquette.bases.folder import inspect_base
from maquette.core.basefolder import BrokenBase

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


def write_weights(path: Path, value: int) -> None:
    save_file({"weight": np.full(4, value, np.uint8)}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "base"
    for name in ("scheduler", "tokenizer", *WEIGHTS):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps({"component": name}))
    for value, (name, file) in enumerate(WEIGHTS.items()):
        write_weights(root / name / file, value)
    (root / "model_index.json").write_text(json.dumps(DECLARED))
    return root


def test_a_whole_folder_is_a_base(folder: Path) -> None:
    base = inspect_base(folder)
    assert (base.family, base.path) == ("sd15", folder)
    assert base.size == sum((folder / name / file).stat().st_size for name, file in WEIGHTS.items())


def test_the_hash_stays_when_the_folder_moves_or_its_card_changes(folder: Path, tmp_path: Path) -> None:
    before = inspect_base(folder).sha256
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("a model card")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "leftover.json").write_text("{}")
    assert inspect_base(copy).sha256 == before


@pytest.mark.parametrize("change", ["weights", "config", "name"])
def test_the_hash_changes_with_what_the_base_draws(folder: Path, change: str) -> None:
    before = inspect_base(folder).sha256
    match change:
        case "weights":
            write_weights(folder / "vae" / WEIGHTS["vae"], 9)
        case "config":
            (folder / "scheduler" / "config.json").write_text('{"prediction_type": "v_prediction"}')
        case _:
            (folder / "vae" / WEIGHTS["vae"]).rename(folder / "vae" / "other.safetensors")
    assert inspect_base(folder).sha256 != before


def test_a_missing_folder_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(BrokenBase, match=r"nowhere/model_index.json does not exist; a base is a folder"):
        inspect_base(tmp_path / "nowhere")


def test_an_index_that_is_no_json_is_told(folder: Path) -> None:
    (folder / "model_index.json").write_text("not json")
    with pytest.raises(BrokenBase, match=r"model_index.json can't be read"):
        inspect_base(folder)


@pytest.mark.parametrize("pipeline", ["UnheardOfPipeline", None, 3])
def test_an_unknown_pipeline_is_refused_with_the_known_ones(folder: Path, pipeline: object) -> None:
    (folder / "model_index.json").write_text(json.dumps(DECLARED | {"_class_name": pipeline}))
    with pytest.raises(BrokenBase, match=r"known pipelines are StableDiffusionPipeline"):
        inspect_base(folder)


def test_a_missing_component_is_told(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    with pytest.raises(BrokenBase, match=r"vae does not exist, but model_index.json declares it"):
        inspect_base(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "unet" / WEIGHTS["unet"]).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BrokenBase, match=r"unet holds pickled weights only; convert them to safetensors"):
        inspect_base(folder)


def test_missing_weights_are_told(folder: Path) -> None:
    (folder / "unet" / WEIGHTS["unet"]).unlink()
    with pytest.raises(BrokenBase, match=r"unet holds no \*.safetensors file"):
        inspect_base(folder)


def test_cut_off_weights_are_told(folder: Path) -> None:
    path = folder / "unet" / WEIGHTS["unet"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenBase, match=r"unet/diffusion_pytorch_model.safetensors"):
        inspect_base(folder)
