"""Bases that were put together draw what those they were made of draw: from one file, and from a hub on loopback."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from maquette.bases.catalogue import BUNDLED_PATH, BaseKind
from maquette.core.drawing import DrawRequest
from maquette.families.base import load_family
from maquette.families.trial import try_base
from maquette.server.bases.adding import add
from maquette.server.bases.repository import Base
from maquette.testing.conformance import Subject
from maquette.testing.hub import files_of, hub_server
from maquette.testing.runs import make_run
from maquette.testing.single_file import FILE, flux1_transformer_in_one_file, sd15_in_one_file, sdxl_in_one_file
from maquette.testing.tiny_bases import TINY_BASES
from maquette.testing.tiny_family import build_tiny_base
from maquette.testing.tiny_flux1 import build_wide_flux1
from maquette.testing.tiny_sdxl import build_tiny_sdxl

pytestmark = pytest.mark.torch

REQUEST = DrawRequest(prompt="a photo of ohwx", width=64, height=64, steps=2, guidance_scale=3.0, seed=5)
ROUNDING = 1e-4
UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9"}


def drawn(family: str, root: Path | str) -> np.ndarray:
    """What a base draws."""
    return np.asarray(load_family(family).pipeline.load(Path(root), torch.device("cpu")).draw(REQUEST))


def tried_here(base: Base) -> None:
    """What the command does in a process of its own (`tests/unit/server/test_trial.py`)."""
    try_base(base.family, Path(base.location))


def added(folder: Path, source: str, environment: dict[str, str], configs: str = "") -> Base:
    return add(
        "made",
        source,
        BaseKind.CHECKPOINT,
        configs=configs,
        folder=folder / "bases",
        checkpoints=(),
        environment=environment,
        progress=lambda *_: None,
        try_out=tried_here,
    ).base


@pytest.mark.parametrize(
    ("build", "write"),
    [
        (build_tiny_base, sd15_in_one_file),
        (build_tiny_sdxl, sdxl_in_one_file),
        # The file has the transformer alone: all else comes with the configurations.
        pytest.param(build_wide_flux1, flux1_transformer_in_one_file, marks=pytest.mark.slow),
    ],
)
def test_a_base_of_one_file_draws_as_the_folder_that_it_was_made_from(
    tmp_path: Path, build: Callable[[Path], Path], write: Callable[[Path, Path], Path]
) -> None:
    base = build(tmp_path / "base")
    file = (write(base, tmp_path / "written") / FILE).rename(tmp_path / "alone.safetensors")
    made = added(tmp_path, str(file), UNREACHABLE, configs=str(base))
    assert Path(made.location) == tmp_path / "bases" / "made"
    assert np.array_equal(drawn(made.family, made.location), drawn(made.family, base))


def test_a_base_of_one_file_trains_as_the_folder_that_it_was_made_from(tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path / "base")
    file = sd15_in_one_file(base, tmp_path / "written") / FILE
    made = added(tmp_path, str(file), UNREACHABLE, configs=str(base))
    subject = Subject("sd15", TINY_BASES.load("sd15"), tmp_path)
    folder, whole = (
        safetensors.torch.load(subject.train(make_run(tmp_path / name, root, max_train_steps=2)))
        for name, root in (("of-folder", base), ("of-made", Path(made.location)))
    )
    assert folder.keys() == whole.keys()
    # Not to the last bit: tensors begin in memory where they begin in their files, and kernels go by that.
    ups = [name for name in folder if ".lora_B." in name]
    assert max(float(folder[name].abs().max()) for name in ups) > 10 * ROUNDING
    assert all(torch.allclose(folder[name], whole[name], rtol=0, atol=ROUNDING) for name in folder)


def test_a_base_of_a_hub_draws_as_its_publisher_does(tmp_path: Path) -> None:
    files = files_of(BUNDLED_PATH)
    # As Stable Diffusion is published; what judges pictures is not fetched.
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    files["model_index.json"] = json.dumps(json.loads(files["model_index.json"]) | checker).encode()
    with hub_server() as hub:
        hub.repositories["maquette/tiny"] = files
        made = added(tmp_path, "maquette/tiny", hub.environment)
    assert np.array_equal(drawn(made.family, made.location), drawn(made.family, BUNDLED_PATH))
    file = (sd15_in_one_file(build_tiny_base(tmp_path / "base"), tmp_path / "written") / FILE).read_bytes()
    with hub_server() as hub:
        hub.repositories["maquette/file"] = {"f.safetensors": file, **configs_of(tmp_path / "base", checker)}
        made = added(tmp_path, "maquette/file/f.safetensors", hub.environment)
    assert np.array_equal(drawn(made.family, made.location), drawn(made.family, tmp_path / "base"))


def configs_of(base: Path, changes: dict[str, list[str]]) -> dict[str, bytes]:
    """What of a base lies beside a checkpoint's file in its repository."""
    files = {name: content for name, content in files_of(base).items() if not name.endswith(".safetensors")}
    return files | {"model_index.json": json.dumps(json.loads(files["model_index.json"]) | changes).encode()}
