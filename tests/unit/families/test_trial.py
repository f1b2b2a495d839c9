"""A base is tried before anybody trains on it: damage is told by what was expected and what was found."""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maquette.core.basefolder import UNFIT_EXIT, WEIGHTS, BrokenBase
from maquette.families import trial
from maquette.families.trial import try_base
from maquette.testing.single_file import FILE, sd15_in_one_file
from maquette.testing.tiny_family import build_tiny_base

pytestmark = pytest.mark.torch

Tensors = dict[str, torch.Tensor]
UNET, AUTOENCODER = "mid_block.resnets.0.conv1.weight", "decoder.conv_out.weight"
QUERIES = "encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("bases") / "whole")


@pytest.fixture
def base(whole: Path, tmp_path: Path) -> Path:
    """One to be damaged."""
    return shutil.copytree(whole, tmp_path / "base")


def change(file: Path, damage: Callable[[Tensors], Tensors]) -> None:
    save_file(damage(load_file(file)), file, metadata={"format": "pt"})


def weights(base: Path, component: str) -> Path:
    (file,) = (base / component).glob(WEIGHTS)
    return file


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def with_one_that_is(number: float, name: str) -> Callable[[Tensors], Tensors]:
    def damage(tensors: Tensors) -> Tensors:
        tensors[name].view(-1)[-1] = number
        return tensors

    return damage


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_whole_base_is_fit(tmp_path: Path, prediction_type: str) -> None:
    try_base("sd15", build_tiny_base(tmp_path / "base", prediction_type=prediction_type))


@pytest.mark.parametrize(
    "others", [{"embeddings.position_ids": torch.arange(77)}, {"vision_model.norm.weight": torch.full((2,), math.nan)}]
)
def test_what_nobody_reads_is_no_damage(base: Path, others: Tensors) -> None:
    """Published text encoders hold positions, and more than the text encoder."""
    change(weights(base, "text_encoder"), lambda tensors: tensors | others)
    try_base("sd15", base)


@pytest.mark.parametrize(
    ("component", "damage", "said"),
    [
        (
            "text_encoder",
            lambda _: {"foo": torch.zeros(2)},
            r"\d+ weights of the text_encoder: embeddings\..*; it holds 1 others: foo",
        ),
        ("text_encoder", without(QUERIES), f"1 weights of the text_encoder: {QUERIES}$"),
        ("unet", without(UNET), f"1 weights of the unet: {UNET}$"),
        ("vae", without(AUTOENCODER), f"1 weights of the vae: {AUTOENCODER}$"),
    ],
)
def test_weights_that_are_lacking_are_told(
    base: Path, component: str, damage: Callable[[Tensors], Tensors], said: str
) -> None:
    change(weights(base, component), damage)
    with pytest.raises(BrokenBase, match=f"{base / component} lacks {said}"):
        try_base("sd15", base)


def test_an_autoencoders_file_in_place_of_the_unets_is_told(base: Path) -> None:
    shutil.copyfile(weights(base, "vae"), weights(base, "unet"))
    with pytest.raises(
        BrokenBase, match=r"lacks \d+ weights of the unet: conv_in\.bias.*others: decoder\.conv_in\.bias"
    ):
        try_base("sd15", base)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.out.2.bias",
        "first_stage_model.decoder.conv_out.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
    ],
)
def test_a_file_that_lacks_weights_is_told(whole: Path, tmp_path: Path, name: str) -> None:
    folder = sd15_in_one_file(whole, tmp_path / "file")
    try_base("sd15", folder)
    change(folder / FILE, without(name))
    with pytest.raises(BrokenBase, match="lacks 1 weights of "):
        try_base("sd15", folder)


def test_a_file_with_a_number_that_is_not_finite_is_told(whole: Path, tmp_path: Path) -> None:
    folder = sd15_in_one_file(whole, tmp_path / "file")
    change(folder / FILE, with_one_that_is(math.inf, "model.diffusion_model.out.2.bias"))
    with pytest.raises(BrokenBase, match=r"found others in 1 weights of the denoiser: conv_out\.bias "):
        try_base("sd15", folder)


@pytest.mark.parametrize("number", [math.nan, -math.inf])
@pytest.mark.parametrize(
    ("component", "name", "said"),
    [
        ("unet", UNET, f"denoiser: {UNET} (UNet2DConditionModel)"),
        ("vae", AUTOENCODER, f"autoencoder: {AUTOENCODER} (AutoencoderKL)"),
        ("text_encoder", QUERIES, f"trained encoders: {QUERIES} (CLIPTextModel)"),
    ],
)
def test_one_number_that_is_not_finite_is_told(base: Path, component: str, name: str, said: str, number: float) -> None:
    change(weights(base, component), with_one_that_is(number, name))
    with pytest.raises(BrokenBase) as refused:
        try_base("sd15", base)
    assert str(refused.value) == f"{base}: expected finite numbers, found others in 1 weights of the {said}"


def test_what_predicts_something_else_is_told(tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path / "base", prediction_type="sample")
    with pytest.raises(BrokenBase, match="prediction_type 'sample'; known are epsilon and v_prediction"):
        try_base("sd15", base)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without(AUTOENCODER), f"lacks 1 weights: {AUTOENCODER}"),
        (lambda tensors: tensors | {AUTOENCODER: torch.zeros(1, 2)}, rf"expected {AUTOENCODER} of .*, found \[1, 2\]"),
        (with_one_that_is(math.nan, AUTOENCODER), f"expected finite numbers, .* of the autoencoder: {AUTOENCODER} "),
    ],
)
def test_an_autoencoder_is_tried_on_its_own(
    base: Path, damage: Callable[[Tensors], Tensors], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trial.main("sd15", str(base / "vae")) == 0
    change(weights(base, "vae"), damage)
    assert trial.main("sd15", str(base / "vae")) == UNFIT_EXIT
    assert re.search(rf"{base / 'vae'}.* {said}", capsys.readouterr().out)


def test_the_program_tells_damage_apart_from_what_it_can_not_do(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trial.main("sd15", str(base)) == 0
    assert capsys.readouterr().out == ""
    change(weights(base, "unet"), without(UNET))
    assert trial.main("sd15", str(base)) == UNFIT_EXIT
    assert capsys.readouterr().out.endswith(f"lacks 1 weights of the unet: {UNET}")
