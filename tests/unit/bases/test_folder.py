"""What makes a folder a base. The folders here have the layout and real headers, and next to no weights."""

import json
import shutil
from pathlib import Path

import pytest

from maquette.bases.folder import BaseFolder, inspect_base
from maquette.core.basefolder import BrokenBase, base_sha256
from maquette.families.registry import layouts
from maquette.testing.paper_bases import CONFIGS, DECLARED, WEIGHTS, paper_base, paper_checkpoint, paper_weights


def inspect(folder: Path) -> BaseFolder:
    return inspect_base(folder, layouts())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return paper_base(tmp_path / "base")


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


@pytest.mark.parametrize("name", ["spiece.model", "source.spm", "bpe.codes", "qwen.tiktoken", "chat_template.jinja"])
def test_the_hash_changes_with_what_a_tokenizer_reads(folder: Path, name: str) -> None:
    hashes = [inspect(folder).sha256]
    for content in ("a", "b"):
        (folder / "tokenizer" / name).write_text(content)
        hashes.append(inspect(folder).sha256)
    assert len(set(hashes)) == 3


def test_the_hash_is_what_it_always_was(tmp_path: Path) -> None:
    """Tasks, models and caches name bases by it."""
    files = {"model_index.json": "{}", "tokenizer/merges.txt": "a b", "unet/weights.safetensors": "w"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert base_sha256(tmp_path) == "acf6897d2bdea25ecb5e860734998a863e04c6513a6a62a8d5e72ff8ced69565"


@pytest.mark.parametrize("change", ["weights", "config", "name"])
def test_the_hash_changes_with_what_the_base_draws(folder: Path, change: str) -> None:
    before = inspect(folder).sha256
    match change:
        case "weights":
            paper_weights(folder / "vae" / WEIGHTS["vae"], 9)
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
    (folder / "model_index.json").write_text(json.dumps({**DECLARED, "_class_name": pipeline}))
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
    (folder / "model_index.json").write_text(json.dumps({**DECLARED, component: [None, None]}))
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
    index = {**DECLARED, "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
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


def test_one_of_several_files_of_weights_that_is_missing_is_told(folder: Path) -> None:
    for number in (1, 3):
        paper_weights(folder / "vae" / f"diffusion_pytorch_model-0000{number}-of-00003.safetensors", number)
    (folder / "vae" / WEIGHTS["vae"]).unlink()
    with pytest.raises(
        BrokenBase, match=r"vae lacks diffusion_pytorch_model-00002-of-00003\.safetensors, of 3 files of its weights"
    ):
        inspect(folder)
    paper_weights(folder / "vae" / "diffusion_pytorch_model-00002-of-00003.safetensors", 2)
    assert inspect(folder).family == "sd15"


class TestOneFile:
    @pytest.fixture
    def bare(self, tmp_path: Path) -> Path:
        """A folder whose components have no weights."""
        return paper_base(tmp_path / "bare", weights=False)

    def test_weights_in_one_file_beside_the_components_are_a_base(self, bare: Path) -> None:
        paper_checkpoint(bare / "all.safetensors", 1)
        base = inspect(bare)
        assert base.family == "sd15"
        paper_checkpoint(bare / "all.safetensors", 2)
        assert inspect(bare).sha256 != base.sha256

    def test_a_component_may_have_its_own_beside_the_file(self, bare: Path) -> None:
        paper_checkpoint(bare / "all.safetensors", 1)
        paper_weights(bare / "vae" / WEIGHTS["vae"], 2)
        assert inspect(bare).family == "sd15"
        (bare / "vae" / WEIGHTS["vae"]).write_bytes(b"no weights")
        with pytest.raises(BrokenBase, match="vae"):
            inspect(bare)

    def test_a_component_without_weights_anywhere_is_told(self, bare: Path) -> None:
        paper_checkpoint(bare / "all.safetensors", changes={"decoder.conv_in.weight": None})
        with pytest.raises(
            BrokenBase, match=r"all\.safetensors has no weights of the vae, and .*/vae holds none either"
        ):
            inspect(bare)
        paper_weights(bare / "vae" / WEIGHTS["vae"], 2)
        assert inspect(bare).family == "sd15"

    def test_several_such_files_are_refused(self, bare: Path) -> None:
        paper_checkpoint(bare / "all.safetensors")
        paper_checkpoint(bare / "ema.safetensors")
        with pytest.raises(BrokenBase, match=r"holds 2 files of weights beside its folders; leave one: all\.saf"):
            inspect(bare)

    def test_a_damaged_file_is_refused(self, bare: Path) -> None:
        with paper_checkpoint(bare / "all.safetensors").open("r+b") as file:
            file.truncate(20)
        with pytest.raises(BrokenBase, match=r"all\.safetensors: "):
            inspect(bare)

    def test_where_the_folders_are_whole_such_files_play_no_part(self, folder: Path) -> None:
        paper_weights(folder / "all.safetensors", 1)
        paper_weights(folder / "ema.safetensors", 2)
        assert inspect(folder).family == "sd15"

    @pytest.mark.parametrize(
        ("tensor", "shape", "words"),
        [
            ("input_blocks.0.0.weight", (8, 9, 3, 3), "unet/config.json says in_channels 4, the file has 9"),
            ("input_blocks.0.0.weight", (10, 4, 3, 3), "unet/config.json says block_out_channels.0 8, the file has 10"),
            ("in_layers.2.weight", (32, 1, 3, 3), "unet/config.json says block_out_channels.-1 16, the file has 32"),
            ("attn2.to_k.weight", (16, 1024), "unet/config.json says cross_attention_dim 12, the file has 1024"),
            ("attn2.to_k.weight", None, "unet/config.json says cross_attention_dim 12, the file has 0"),
            ("decoder.conv_in.weight", (24, 16, 3, 3), "vae/config.json says latent_channels 4, the file has 16"),
            ("token_embedding.weight", (20, 13), "text_encoder/config.json says hidden_size 12, the file has 13"),
            ("layers.1.mlp.fc1.bias", None, "text_encoder/config.json says num_hidden_layers 2, the file has 1"),
        ],
    )
    def test_a_file_that_does_not_fit_the_configurations_is_told_where(
        self, bare: Path, tensor: str, shape: tuple[int, ...] | None, words: str
    ) -> None:
        paper_checkpoint(bare / "all.safetensors", changes={tensor: shape})
        with pytest.raises(BrokenBase, match=f"does not fit the configurations beside it: .*{words}.*--configs"):
            inspect(bare)

    def test_what_a_configuration_leaves_open_is_not_compared(self, bare: Path) -> None:
        paper_checkpoint(bare / "all.safetensors", changes={"attn2.to_k.weight": (16, 1024)})
        (bare / "unet" / "config.json").write_text('{"block_out_channels": null}')
        assert inspect(bare).family == "sd15"

    def test_a_file_of_another_family_is_told(self, bare: Path) -> None:
        paper_checkpoint(bare / "all.safetensors", changes={"text_model.embeddings.token_embedding.weight": None})
        with pytest.raises(
            BrokenBase, match=r"expected a checkpoint of sd15, found one of sd15 without cond_stage_model\..*embedding"
        ):
            inspect(bare)
