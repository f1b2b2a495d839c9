"""A base is tried in a process of its own, and one that can't be tried there is not held to be damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maquette.bases.catalogue import BUNDLED_PATH, BaseKind
from maquette.core.basefolder import BrokenBase
from maquette.server.bases.repository import Base
from maquette.server.bases.service import inspect
from maquette.server.bases.trial import try_out

pytestmark = pytest.mark.torch

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_whole_base_is_fit() -> None:
    assert try_out(registered(BUNDLED_PATH)) is None


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(BUNDLED_PATH, tmp_path / "base")
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.bias"][0] = np.nan
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(BrokenBase) as refused:
        try_out(registered(folder))
    found = "found others in 1 weights of the denoiser: conv_in.bias (UNet2DConditionModel)"
    assert str(refused.value) == f"{folder}: expected finite numbers, {found}"


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("raise ModuleNotFoundError(\"No module named 'torch'\")", "ModuleNotFoundError: No module named 'torch'"),
        ("import os; os.kill(os.getpid(), 9)", "its process was ended by SIGKILL"),
        ("import os; os._exit(7)", "its process ended with 7"),
    ],
    ids=["a server without torch", "too little memory", "a library that ends it"],
)
def test_where_it_can_not_be_tried_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, said: str
) -> None:
    (tmp_path / "torch.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert try_out(registered(BUNDLED_PATH)) == said


def registered(folder: Path) -> Base:
    return inspect("mine", folder, BaseKind.CHECKPOINT)
