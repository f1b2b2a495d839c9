"""What may be registered as a VAE or an embedding. The files here have real headers, and next to no weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.bases.embedding import inspect_embedding
from maquette.bases.vae import inspect_vae
from maquette.core.basefolder import BrokenBase
from maquette.core.files import file_sha256


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLED_PATH / "vae", tmp_path / "vae")


def configure(vae: Path, **changes: object) -> None:
    config = json.loads((vae / "config.json").read_text()) | changes
    (vae / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_the_bundled_bases_own_autoencoder_is_a_vae(vae: Path) -> None:
    found = inspect_vae(vae)
    assert (found.path, found.family, found.latent_channels) == (vae, "sd15", 8)
    before = found.sha256
    configure(vae, scaling_factor=0.5)
    assert inspect_vae(vae).sha256 != before


@pytest.mark.parametrize(
    ("scale", "channels", "family"),
    [(0.18215, 4, "sd15"), (None, None, "sd15"), (0.13025, 4, "sdxl"), (0.3611, 16, "flux1")],
)
def test_published_vaes_are_told_apart(vae: Path, scale: float | None, channels: int | None, family: str) -> None:
    configure(vae, scaling_factor=scale, latent_channels=channels)
    found = inspect_vae(vae)
    assert (found.family, found.latent_channels) == (family, channels or 4)


def test_what_is_no_vae_is_told(vae: Path) -> None:
    configure(vae, _class_name="AutoencoderTiny")
    with pytest.raises(BrokenBase, match=r"config.json is of the class 'AutoencoderTiny'; a VAE is an AutoencoderKL"):
        inspect_vae(vae)
    configure(vae, _class_name="AutoencoderKL", latent_channels="four")
    with pytest.raises(BrokenBase, match="latent_channels must be a whole number, got 'four'"):
        inspect_vae(vae)
    configure(vae, latent_channels=4)
    weights = vae / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BrokenBase, match="its header speaks of"):
        inspect_vae(vae)
    weights.rename(vae / "diffusion_pytorch_model.bin")
    with pytest.raises(BrokenBase, match="holds pickled weights only; convert them to safetensors"):
        inspect_vae(vae)
    with pytest.raises(BrokenBase, match=r"unet/config.json is of the class 'UNet2DConditionModel'"):
        inspect_vae(BUNDLED_PATH / "unet")


def embedding(folder: Path, **shapes: tuple[int, ...]) -> Path:
    path = folder / "word.safetensors"
    tensors = {name.replace("__", "."): np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file({name.removesuffix(".star") + ".*" if "star" in name else name: t for name, t in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("shapes", "width"),
    [
        ({"emb_params": (3, 768)}, 768),
        ({"string_to_param__star": (2, 768)}, 768),
        ({"emb_params": (1, 128), "step": (1,)}, 128),
        ({"pelu": (4, 1024)}, 1024),
        ({"pelu": (128,)}, 128),
    ],
)
def test_every_way_to_write_an_embedding_has_a_width(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], width: int
) -> None:
    path = embedding(tmp_path, **shapes)
    found = inspect_embedding(path)
    assert (found.path, found.family, found.text_width) == (path, "sd15", width)
    assert found.sha256 == file_sha256(path)
    assert inspect_embedding(tmp_path) == found


def test_vectors_of_two_text_encoders_are_of_sdxl(tmp_path: Path) -> None:
    found = inspect_embedding(embedding(tmp_path, clip_l=(1, 768), clip_g=(1, 1280)))
    assert (found.family, found.text_width) == ("sdxl", None)


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({"a": (1, 768), "b": (1, 768)}, r"a \[1, 768\], b \[1, 768\]"),
        ({"emb_params": (1, 2, 768)}, r"emb_params \[1, 2, 768\]"),
        ({"emb_params": (0, 768)}, r"emb_params \[0, 768\]"),
        ({}, "none"),
    ],
)
def test_a_file_without_vectors_says_what_it_holds(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], found: str
) -> None:
    with pytest.raises(BrokenBase, match=f"wanted one tensor of vectors, found {found}"):
        inspect_embedding(embedding(tmp_path, **shapes))


def test_what_is_no_embedding_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BrokenBase, match=r"nothing does not exist; an embedding is a .safetensors file"):
        inspect_embedding(tmp_path / "nothing")
    with pytest.raises(BrokenBase, match=r"holds 0 .safetensors files; name the one"):
        inspect_embedding(tmp_path)
    (tmp_path / "word.pt").write_bytes(b"pickled")
    with pytest.raises(BrokenBase, match=r"word.pt is no .safetensors file; convert"):
        inspect_embedding(tmp_path / "word.pt")
    path = embedding(tmp_path, emb_params=(1, 768))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BrokenBase, match="its header speaks of"):
        inspect_embedding(path)
