"""Which of a repository's files a model needs, as repositories are published."""

import pytest

from maquette.bases.hub import HubFile, Listing, Unobtainable
from maquette.bases.selection import of_components, of_embedding, of_folder, of_pipeline, of_weights
from maquette.families.sd15.spec import SPEC

TEXT, UNET = "model", "diffusion_pytorch_model"
FOLDERS = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
BESIDE = (
    ".gitattributes",
    "README.md",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "v1-5-pruned-emaonly.safetensors",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/openvino_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin.index.json",
    "vae/flax_model.msgpack",
    "vae/deep/config.json",
)


def listing(*paths: str) -> Listing:
    return Listing("studio/base", "c0ffee", {path: HubFile(path, 1, "0") for path in paths})


def chosen(*paths: str, elsewhere: tuple[str, ...] = ()) -> list[str]:
    """What of a base is taken; a file that is called otherwise here has both names."""
    wanted = of_components(listing(*paths), SPEC.layout, elsewhere)
    return sorted(one.name if one.name == one.file.path else f"{one.file.path} as {one.name}" for one in wanted)


def without(*ends: str) -> list[str]:
    return [path for path in FOLDERS if not path.endswith(ends)]


def test_of_a_published_repository_a_base_needs_its_components_alone() -> None:
    assert chosen(*FOLDERS, *BESIDE) == sorted(FOLDERS[1:])
    assert of_pipeline(listing(*FOLDERS, *BESIDE)).name == "model_index.json"


def test_weights_that_are_elsewhere_are_left_out() -> None:
    assert chosen(*FOLDERS, *BESIDE, elsewhere=("unet", "text_encoder")) == [
        path for path in sorted(FOLDERS[1:]) if not path.endswith(".safetensors") or path.startswith("vae")
    ]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model.safetensors", "model.fp16.safetensors"], {"model.safetensors": "model.safetensors"}),
        (["model.fp16.safetensors"], {"model.safetensors": "model.fp16.safetensors"}),
        (["m.bf16.safetensors", "m.fp16.safetensors"], {"m.safetensors": "m.fp16.safetensors"}),
        (["model.non_ema.safetensors"], {}),
        (["model.fp16-00001-of-00002.safetensors", "model-00001-of-00002.fp16.safetensors"], {}),
        (["other.safetensors", "model.safetensors"], {"model.safetensors": "model.safetensors"}),
        (["other.safetensors"], {"other.safetensors": "other.safetensors"}),
        (["model.bin", "model.safetensors.txt"], {}),
    ],
)
def test_one_set_of_weights_is_taken_and_called_as_libraries_expect(names: list[str], taken: dict[str, str]) -> None:
    assert of_weights(names) == taken


def test_weights_in_several_files_come_with_what_lists_them() -> None:
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = [*parts, "model.safetensors.index.json", "config.json", "model.fp16.safetensors"]
    names += ["model.safetensors.index.fp16.json"]
    assert list(of_weights(names)) == [*parts, "model.safetensors.index.json"]
    assert list(of_weights([*names, "model.safetensors"])) == ["model.safetensors"]
    others = without("unet/diffusion_pytorch_model.safetensors")
    assert [name for name in chosen(*others, *(f"unet/{name}" for name in names)) if name.startswith("unet")] == [
        "unet/config.json",
        *(f"unet/{part}" for part in parts),
        "unet/model.safetensors.index.json",
    ]


def test_half_precision_is_taken_where_there_is_nothing_else() -> None:
    found = chosen(*without("unet/diffusion_pytorch_model.safetensors"), *BESIDE)
    assert "unet/diffusion_pytorch_model.fp16.safetensors as unet/diffusion_pytorch_model.safetensors" in found


def test_weights_that_folders_lack_may_be_in_the_one_file_beside_them() -> None:
    bare = without(".safetensors")
    assert chosen(*bare, "all.safetensors") == sorted([*bare[1:], "all.safetensors"])
    for more in ((), ("all.safetensors", "ema.safetensors")):
        with pytest.raises(Unobtainable, match=r"unet holds no safetensors weights to take, only config.json"):
            chosen(*bare, *more)
    with pytest.raises(Unobtainable, match="text_encoder holds no safetensors weights"):
        chosen(*bare, "all.safetensors", elsewhere=("unet", "vae"))


def test_pickled_weights_alone_are_refused() -> None:
    paths = [path.replace(".safetensors", ".bin") if path.startswith("unet") else path for path in FOLDERS]
    with pytest.raises(
        Unobtainable, match=r"studio/base: unet holds pickled weights only \(diffusion_pytorch_model.bin\).*safetensors"
    ):
        chosen(*paths)
    with pytest.raises(Unobtainable, match="studio/base: it holds pickled weights only"):
        of_folder(listing("config.json", "diffusion_pytorch_model.bin"))
    with pytest.raises(Unobtainable, match="studio/base: it holds pickled weights only"):
        of_embedding(listing("learned_embeds.bin"))


def test_a_repository_that_is_no_checkpoint_says_what_it_has() -> None:
    with pytest.raises(
        Unobtainable, match=r"has no model_index.json, .*; add one of its files: studio/base/a.safetensors"
    ):
        of_pipeline(listing("a.safetensors", "README.md"))
    with pytest.raises(Unobtainable, match=r"has no model_index.json, .*; it has no safetensors file beside it either"):
        of_pipeline(listing("vae/config.json", "vae/a.safetensors"))


def test_an_autoencoder_is_its_folder() -> None:
    paths = ("config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "README.md")
    assert [one.name for one in of_folder(listing(*paths))] == list(paths[:2])


def test_an_embedding_is_one_file() -> None:
    assert [one.name for one in of_embedding(listing("learned_embeds.safetensors", "config.json", "e.bin"))] == [
        "learned_embeds.safetensors"
    ]
    with pytest.raises(
        Unobtainable, match=r"several embeddings; .*: studio/base/a.safetensors, studio/base/b.safetens"
    ):
        of_embedding(listing("a.safetensors", "b.safetensors"))
