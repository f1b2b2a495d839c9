"""docs/families.md, done word for word: its files make a package, whose family then passes, trains and serves."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from PIL import Image, ImageChops

from maquette.cli.server_process import ServerProcess
from maquette.core.drawing import DrawRequest, LoraUse
from maquette.core.progress import Finished
from maquette.core.rundir import Manifest
from maquette.testing.conformance import CHECKS

pytestmark = pytest.mark.torch

MANUAL = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE = 500
PREPARE = """
import sys
from pathlib import Path
from maquette.families.environment import prepare_environment
prepare_environment()
from maquette.testing.runs import make_run
from maquette_pixart.tiny import build_tiny_pixart
root = Path(sys.argv[1])
make_run(root / "run", build_tiny_pixart(root / "base"), max_train_steps=3)
"""
"""Run where the package is installed, as whoever follows the manual would make a base and a run."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The manual's package, laid out as an installer leaves it, in the environment of the commands."""
    site = tmp_path_factory.mktemp("site")
    for name, content in FILE.findall(MANUAL):
        path = site / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (site / "maquette_pixart" / "__init__.py").touch()
    project = tomllib.loads((site / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("".join(lines))
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def python(environment: dict[str, str], *arguments: str) -> str:
    """What a command prints that must succeed."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_manual_names_every_check() -> None:
    columns = re.findall(r"^\| ([a-z ]+) \| ", MANUAL.partition("The columns:")[2], re.MULTILINE)
    assert columns == ["check", *CHECKS]


def test_its_family_passes_every_check(environment: dict[str, str]) -> None:
    head, row, *words = python(environment, "-m", "maquette.testing.conformance", "pixart").splitlines()
    assert head.split("  ")[0] == "family"
    assert row.split() == ["pixart", "ok", "-", *["ok"] * (len(CHECKS) - 4), "-", "-"]
    assert words == [
        "pixart, single file: diffusers' PixArtSigmaPipeline has no from_single_file",
        "pixart, in diffusers: diffusers' PixArtSigmaPipeline has no load_lora_weights",
        "pixart, kohya in diffusers: diffusers' PixArtSigmaPipeline has no load_lora_weights",
    ]


def test_its_family_trains_and_serves(environment: dict[str, str], tmp_path: Path) -> None:
    python(environment, "-c", PREPARE, str(tmp_path))
    run = tmp_path / "run"
    python(environment, "-m", "maquette.trainer", str(run))
    last = (run / "events.jsonl").read_bytes().splitlines()[-1]
    assert isinstance(msgspec.json.decode(last, type=Finished), Finished)
    manifest = msgspec.json.decode((run / "manifest.json").read_bytes(), type=Manifest)

    request = DrawRequest(prompt="a photo of ohwx", width=64, height=64, steps=2, guidance_scale=3.0, seed=5)
    lora = LoraUse(str(run / manifest.weights.path), strength=20.0)
    requests = tmp_path / "requests.json"
    requests.write_bytes(msgspec.json.encode([request, msgspec.structs.replace(request, loras=(lora,))]))
    drawing = ("-m", "maquette.inference", "draw", "--base", str(tmp_path / "base"))
    python(environment, *drawing, str(requests), str(tmp_path / "drawn"))
    plain, changed = (Image.open(tmp_path / "drawn" / f"00{number}.png") for number in (0, 1))
    assert plain.size == (64, 64)
    assert ImageChops.difference(plain, changed).getbbox() is not None


@pytest.mark.slow
def test_a_server_trains_and_draws_with_it(environment: dict[str, str], tmp_path: Path) -> None:
    """The commands of the manual's last steps, against a server of its own."""
    python(environment, "-c", PREPARE, str(tmp_path))
    pictures, output = tmp_path / "run" / "images", tmp_path / "loras"
    # Nothing else runs on this server that a training should stand back for.
    settings = {"PYTHONPATH": environment["PYTHONPATH"], "MAQUETTE_TRAINER_NICE": "0"}
    with ServerProcess(tmp_path / "data", settings) as server:
        server.command("bases", "add", "my-pixart", "--from", str(tmp_path / "base"))
        key = server.command("keys", "create", "--tenant", "newcomer")
        user = environment | {"MAQUETTE_URL": server.url, "MAQUETTE_API_KEY": key}
        size = ("--base", "my-pixart", "--width", "128", "--height", "128")
        training = ("--max-train-steps", "40", "--learning-rate", "0.01", "--output", str(output))
        saved = Path(
            python(user, "-m", "maquette", "train", str(pictures), "--name", "first", *size, *training).strip()
        )
        drawing = (*size, "--lora", saved.stem, "--output", str(tmp_path))
        drawn = python(user, "-m", "maquette", "generate", "a photo of ohwx person", *drawing).strip()
        with Image.open(drawn) as picture:
            assert picture.size == (128, 128)


def test_the_server_knows_it_without_torch(environment: dict[str, str]) -> None:
    program = (
        "import json, sys\n"
        "from maquette.families.registry import layouts\n"
        "print(json.dumps([sorted(layouts()), 'torch' in sys.modules]))"
    )
    assert json.loads(python(environment, "-c", program)) == [["flux1", "pixart", "sd15", "sdxl"], False]
