"""The demo, as `make demo` runs it, and whether its LoRA draws the character."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from maquette.cli.server_process import MAQUETTE

pytestmark = [pytest.mark.torch, pytest.mark.slow]

JUDGE = Path(__file__).parents[2] / "benchmarks" / "demo_quality.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run([*MAQUETTE, "demo", "--out", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_it_prints_the_list_call_and_its_answer(demo: tuple[Path, str]) -> None:
    curl, _, answer = demo[1].partition("\n")
    assert curl.startswith("curl -H 'Authorization: Bearer mq_")
    assert "/v3/training?pagination.limit=10" in curl
    listed = json.loads(answer)
    (task,) = listed["tasks"]
    assert task["task_status"] == "SUCCESS"
    (model,) = task["models"]
    assert model["model_status"] == "SERVING"
    assert (demo[0] / model["model_name"]).is_file()


def test_it_draws_a_sheet(demo: tuple[Path, str]) -> None:
    with Image.open(demo[0] / "before-after.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 24) or ()) > 1000


def test_the_character_is_drawn_with_the_lora_only(demo: tuple[Path, str]) -> None:
    judged = subprocess.run(
        [sys.executable, str(JUDGE), "--demo", str(demo[0])], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr
