"""docs/families.md, done word for word: its files make a package, whose family then passes, trains and serves."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement
from PIL import Image, ImageChops

from maquette.cli.server_process import ServerProcess
from maquette.core.drawing import LoraUse, sample_request
from maquette.core.progress import Finished
from maquette.core.rundir import Manifest, RunDirectory
from maquette.families.registry import FAMILIES
from maquette.testing.conformance import CHECKS, DISTINCT, distance
from maquette.testing.runs import read_spec

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
make_run(root / "run", build_tiny_pixart(root / "base"), max_train_steps=10, learning_rate=1e-2)
"""
"""Run where the package is installed, as whoever follows the manual would make a base and a run."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The manual's package, built and installed beside this environment, in that of the commands."""
    package, site = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    for name, content in FILE.findall(MANUAL):
        path = package / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (package / "maquette_pixart" / "__init__.py").touch()
    # Nothing is fetched: what it needs, to be built as well, is here.
    here = ("--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check")
    python(dict(os.environ), "-m", "pip", "install", "--quiet", *here, "--target", str(site), str(package))
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def test_what_it_depends_on_is_here(environment: dict[str, str]) -> None:
    program = "from importlib.metadata import requires; print(*requires('maquette-pixart'))"
    needed = [Requirement(line) for line in python(environment, "-c", program).splitlines()]
    assert [(one.name, one.extras) for one in needed] == [("maquette", {"train"})]
    assert "train" in metadata("maquette").get_all("Provides-Extra", [])


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

    request = sample_request(read_spec(RunDirectory(run)).training.sample)
    lora = LoraUse(str(run / manifest.weights.path), strength=1.0)
    requests = tmp_path / "requests.json"
    requests.write_bytes(msgspec.json.encode([request, msgspec.structs.replace(request, loras=(lora,))]))
    drawing = ("-m", "maquette.inference", "draw", "--base", str(tmp_path / "base"))
    python(environment, *drawing, str(requests), str(tmp_path / "drawn"))
    plain, served = (Image.open(tmp_path / "drawn" / f"00{number}.png") for number in (0, 1))
    trained = Image.open(run / manifest.sample.path)
    assert trained.size == (64, 64)
    assert ImageChops.difference(served, trained).getbbox() is None
    assert distance(plain, trained) > DISTINCT


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
    assert json.loads(python(environment, "-c", program)) == [sorted({*FAMILIES.names(), "pixart"}), False]
