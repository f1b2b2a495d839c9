from pathlib import Path

from maquette.bases.catalogue import BUNDLED_BASE, BUNDLED_PATH, KNOWN_BASES
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
    assert sum(file.stat().st_size for file in BUNDLED_PATH.rglob("*.safetensors")) < 16_000_000
