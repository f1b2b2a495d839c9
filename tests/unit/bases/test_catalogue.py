from pathlib import Path

import pytest

from maquette.bases.catalogue import BUNDLED_BASE, BUNDLED_PATH, KNOWN_BASES, file_name, spellings, stem
from maquette.bases.folder import inspect_base
from maquette.families.registry import layouts


def test_every_documented_name_is_known_once() -> None:
    names = [base.name for base in KNOWN_BASES]
    assert len(names) == len(set(names)) == 17
    assert names[0] == "stable-diffusion-xl-base-1.0"
    assert names[-1] == "animagineXLV31_v31_325600"


def test_the_families_of_documented_names_are_inferred_but_for_one() -> None:
    assert {base.family for base in KNOWN_BASES} - {None} == {"sd15", "sdxl"}
    assert [base.name for base in KNOWN_BASES if base.family is None] == ["somboy_v10_172675"]


def test_the_bundled_base_is_whole_and_of_the_family_it_claims() -> None:
    folder = inspect_base(BUNDLED_PATH, layouts())
    assert folder.family == BUNDLED_BASE.family
    assert folder.path == Path(BUNDLED_PATH).resolve()
    assert (folder.text_width, folder.latent_channels) == (128, 8)
    assert sum(file.stat().st_size for file in BUNDLED_PATH.rglob("*.safetensors")) < 16_000_000


@pytest.mark.parametrize(
    ("training_name", "inference_file"),
    [
        ("v1-5-pruned-emaonly", "v1-5-pruned-emaonly.safetensors"),
        ("WFChild_v1.0", "WFChild_v1.0.ckpt"),
        ("majichenmixrealistic_v10", "majichenmixrealistic_v10_85701.safetensors"),
        ("stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors"),
    ],
)
def test_either_published_name_leads_to_the_other_with_and_without_its_extension(
    training_name: str, inference_file: str
) -> None:
    names = {training_name, inference_file, stem(inference_file)}
    for name in names:
        assert spellings(name)[0] == name
        assert names <= set(spellings(name))
    assert file_name(training_name) == inference_file


def test_no_two_published_bases_share_a_spelling() -> None:
    every = [name for base in KNOWN_BASES for name in spellings(base.name)]
    assert len(every) == len(set(every))


def test_ones_own_name_has_a_file_name_and_keeps_its_dots() -> None:
    assert file_name("mine") == "mine.safetensors"
    assert file_name("mine.v1.0") == "mine.v1.0.safetensors"
    assert file_name("mine.ckpt") == "mine.ckpt"
    assert "mine" in spellings("mine.ckpt")
    assert "mine.safetensors" in spellings("mine")
    assert "mine" not in spellings("mine.v1")
    assert spellings(".ckpt")[0] == ".ckpt"
    assert "" not in spellings(".ckpt")
