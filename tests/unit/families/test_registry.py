import subprocess
import sys
from pathlib import Path

import pytest

from maquette.families.registry import ENTRY_POINT_GROUP, FAMILIES, FamilySpec, UnknownFamily, families, load_spec

HEAVY = ("torch", "diffusers", "transformers", "peft")
LIGHT_MODULES = (
    "maquette.families.registry",
    "maquette.families.environment",
    "maquette.bases.folder",
    "maquette.bases.catalogue",
    "maquette.trainer.__main__",
    "maquette.inference.__main__",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_spec_of_its_name(name: str) -> None:
    spec = load_spec(name)
    assert isinstance(spec, FamilySpec)
    assert spec.name == name
    assert spec.native_resolution % 64 == 0
    assert spec.licence


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownFamily, match=r"no family 'sdxxl' in this installation; it has .*sd15"):
        load_spec("sdxxl")


def install(site: Path, family: str) -> None:
    """Lay out a package as an installer leaves it."""
    (site / "brought.py").write_text(
        "from maquette.families.registry import FAMILIES\nMODULES = FAMILIES['sd15']\n", encoding="utf-8"
    )
    about = site / f"brought_{family}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: brought-{family}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{family} = brought:MODULES\n")


def test_a_package_may_bring_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "brought")
    monkeypatch.syspath_prepend(tmp_path)
    assert families().keys() == {*FAMILIES, "brought"}
    assert load_spec("brought").name == "sd15"


def test_a_package_may_not_replace_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "sd15")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="the family 'sd15' of brought:MODULES exists already"):
        families()


def test_specs_bases_and_command_lines_load_without_torch() -> None:
    program = (
        f"import importlib, sys\n"
        f"for name in {LIGHT_MODULES!r}: importlib.import_module(name)\n"
        f"from maquette.families.registry import FAMILIES, load_spec\n"
        f"for name in FAMILIES: load_spec(name)\n"
        f"print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
