import subprocess
import sys
from pathlib import Path

import pytest

from maquette.core.registry import UnknownName
from maquette.families.registry import FAMILIES, FamilySpec, layouts, load_spec, specs

HEAVY = ("torch", "diffusers", "transformers", "peft")
LIGHT_MODULES = (
    "maquette.families.registry",
    "maquette.families.environment",
    "maquette.bases.folder",
    "maquette.bases.catalogue",
    "maquette.trainer.__main__",
    "maquette.inference.__main__",
)


@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_family_has_a_spec_of_its_name(name: str) -> None:
    spec = load_spec(name)
    assert isinstance(spec, FamilySpec)
    assert spec.name == name
    assert spec.native_resolution % 64 == 0
    assert spec.licence
    assert spec.layout.pipelines
    assert spec.layout.components


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"no family 'sdxxl' in this installation; it has .*sd15"):
        load_spec("sdxxl")


def install(site: Path, family: str) -> None:
    """Lay out a package as an installer leaves it."""
    (site / "brought.py").write_text(
        "from msgspec.structs import replace\n"
        "from maquette.core.basefolder import BaseLayout\n"
        "from maquette.families.sd15.spec import SPEC\n"
        "BROUGHT = replace(SPEC, name='brought', layout=BaseLayout(frozenset({'BroughtPipeline'}), {}))\n",
        encoding="utf-8",
    )
    about = site / f"brought_{family}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: brought-{family}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{FAMILIES.group}]\n{family} = brought:BROUGHT\n")


def test_a_package_may_bring_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = FAMILIES.names()
    install(tmp_path, "brought")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(layouts()) == FAMILIES.names() == [*ours, "brought"]
    assert load_spec("brought").name == "brought"
    assert FAMILIES.own_names() == ours
    assert specs()["brought"].title == load_spec("sd15").title


@pytest.mark.parametrize("source", ["import no_such_module", "1 / 0", "", "BROUGHT = 1"])
def test_a_family_that_can_not_be_loaded_is_logged_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    ours = FAMILIES.names()
    install(tmp_path, "other")
    (tmp_path / "brought.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brought", raising=False)
    assert list(layouts()) == ours
    assert FAMILIES.names() == [*ours, "other"]
    (record,) = caplog.records
    assert record.getMessage() == "the family 'other' can't be loaded and is left out"
    assert record.exc_info


def test_a_package_may_not_replace_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "sd15")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UnknownName, match="the family 'sd15' is registered more than once: brought:BROUGHT and maquette"
    ):
        load_spec("sd15")


def test_specs_bases_and_command_lines_load_without_torch() -> None:
    program = (
        f"import importlib, sys\n"
        f"for name in {LIGHT_MODULES!r}: importlib.import_module(name)\n"
        f"from maquette.families.registry import layouts\n"
        f"layouts()\n"
        f"print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
