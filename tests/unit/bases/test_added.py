"""What may be registered as a VAE or an embedding. The files here have real headers, and next to no weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import save_file

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.bases.embedding import inspect_embedding
from maquette.bases.folder import inspect_base
from maquette.bases.vae import INTO_LATENTS, inspect_vae
from maquette.core.basefolder import BrokenBase
from maquette.core.files import file_sha256
from maquette.families.registry import layouts

LAYOUTS = layouts()
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLED_PATH / "vae", tmp_path / "vae")


def write(path: Path, tensors: dict[str, Any]) -> Path:
    save_file(tensors, path)
    return path


def configure(vae: Path, **changes: object) -> None:
    config = json.loads((vae / "config.json").read_text()) | changes
    (vae / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_the_bundled_bases_own_autoencoder_is_a_vae(vae: Path) -> None:
    found = inspect_vae(vae, LAYOUTS)
    assert (found.path, found.family, found.latent_channels) == (vae, "sd15", 8)
    before = found.sha256
    configure(vae, sample_size=64)
    assert inspect_vae(vae, LAYOUTS).sha256 != before


@pytest.mark.parametrize(
    ("scale", "channels", "family"),
    [(0.18215, 4, "sd15"), (None, None, "sd15"), (0.13025, 4, "sdxl"), (0.3611, 16, "flux1")],
)
def test_published_vaes_are_told_apart(vae: Path, scale: float | None, channels: int | None, family: str) -> None:
    configure(vae, scaling_factor=scale, latent_channels=channels)
    write(vae / WEIGHTS, {INTO_LATENTS: np.zeros((8, channels or 4, 3, 3), np.float16)})
    found = inspect_vae(vae, LAYOUTS)
    assert (found.family, found.latent_channels) == (family, channels or 4)


def test_a_vae_that_no_family_reads_is_told(vae: Path) -> None:
    """Stable Diffusion 3's has as many channels as FLUX.1's, and other latents."""
    configure(vae, scaling_factor=1.5305, latent_channels=16)
    write(vae / WEIGHTS, {INTO_LATENTS: np.zeros((8, 16, 3, 3), np.float16)})
    with pytest.raises(BrokenBase, match=r"0.18215 \(sd15\), .*0.3611 \(flux1\), found 1.5305"):
        inspect_vae(vae, LAYOUTS)
    brought = replace(LAYOUTS["flux1"], autoencoders={"AutoencoderKL": (1.5305,)})
    assert inspect_vae(vae, LAYOUTS | {"sd3": brought}).family == "sd3"


def test_a_vae_of_another_class_is_told_by_it(vae: Path) -> None:
    """Qwen-Image's says by other names how many channels it has, and how they are scaled."""
    configure(vae, _class_name="AutoencoderKLQwenImage", scaling_factor=None, latent_channels=None, z_dim=16)
    write(vae / WEIGHTS, {INTO_LATENTS: np.zeros((8, 16, 3, 3, 3), np.float16)})
    with pytest.raises(
        BrokenBase, match=r"of a class that .* reads, AutoencoderKL \(sd15\), .*, found AutoencoderKLQwenImage; such an"
    ):
        inspect_vae(vae, LAYOUTS)
    brought = LAYOUTS | {"qwen": replace(LAYOUTS["flux1"], autoencoders={"AutoencoderKLQwenImage": ()})}
    found = inspect_vae(vae, brought)
    assert (found.family, found.latent_channels) == ("qwen", 16)
    configure(vae, z_dim=4)
    with pytest.raises(BrokenBase, match=f"for latents of 4 channels, .*, found {INTO_LATENTS} for 16"):
        inspect_vae(vae, brought)


def test_what_is_no_whole_vae_is_told(vae: Path) -> None:
    configure(vae, latent_channels="four")
    with pytest.raises(BrokenBase, match="latent_channels must be a whole number, got 'four'"):
        inspect_vae(vae, LAYOUTS)
    configure(vae, latent_channels=4)
    with pytest.raises(BrokenBase, match=f"for latents of 4 channels, as config.json says, found {INTO_LATENTS} for 8"):
        inspect_vae(vae, LAYOUTS)
    configure(vae, latent_channels=8)
    weights = vae / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(BrokenBase, match="its header speaks of"):
        inspect_vae(vae, LAYOUTS)
    weights.rename(vae / "diffusion_pytorch_model.bin")
    with pytest.raises(BrokenBase, match="holds pickled weights only; convert them to safetensors"):
        inspect_vae(vae, LAYOUTS)
    shutil.copyfile(BUNDLED_PATH / "unet" / WEIGHTS, weights)
    with pytest.raises(BrokenBase, match=r"expected an autoencoder's weights, among them .*, found .*conv"):
        inspect_vae(vae, LAYOUTS)


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
    found = inspect_embedding(path, LAYOUTS)
    assert (found.path, found.family, found.text_width) == (path, "sd15", width)
    assert found.sha256 == file_sha256(path)
    assert inspect_embedding(tmp_path, LAYOUTS) == found


def test_vectors_of_two_text_encoders_are_of_sdxl(tmp_path: Path) -> None:
    found = inspect_embedding(embedding(tmp_path, clip_l=(1, 768), clip_g=(1, 1280)), LAYOUTS)
    assert (found.family, found.text_width) == ("sdxl", None)


def test_an_embedding_that_no_family_takes_is_told(tmp_path: Path) -> None:
    path = embedding(tmp_path, emb_params=(1, 768))
    with pytest.raises(BrokenBase, match="no family of this installation takes an embedding of emb_params"):
        inspect_embedding(path, {"flux1": LAYOUTS["flux1"]})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"a": (1, 768), "b": (1, 768)}, r"expected one tensor of vectors, found a \[1, 768\], b \[1, 768\]"),
        ({}, "expected one tensor of vectors, found none"),
        ({"emb_params": (1, 2, 768)}, r"expected 1 to 75 vectors, found emb_params \[1, 2, 768\]"),
        ({"emb_params": (0, 768)}, r"expected 1 to 75 vectors, found emb_params \[0, 768\]"),
        ({"emb_params": (76, 768)}, r"expected 1 to 75 vectors, found emb_params \[76, 768\]"),
        ({"clip_l": (2, 768), "clip_g": (3, 1280)}, "for either text encoder, found 2 of clip_l, 3 of clip_g"),
    ],
)
def test_vectors_of_another_shape_are_told(tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(BrokenBase, match=words):
        inspect_embedding(embedding(tmp_path, **shapes), LAYOUTS)


def bfloat16(value: float) -> bytes:
    return np.array([value], np.float32).tobytes()[2:]


def raw(path: Path, dtype: str, shape: list[int], data: bytes) -> Path:
    """A safetensors file as another writer may have made it."""
    header = json.dumps({"emb_params": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_told(tmp_path: Path, dtype: str, bad: float) -> None:
    numpy_types = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    path = tmp_path / "word.safetensors"

    def numbers(*values: float) -> bytes:
        if dtype == "BF16":
            return b"".join(map(bfloat16, values))
        return np.array(values, numpy_types[dtype]).tobytes()

    largest = 60000.0
    assert inspect_embedding(raw(path, dtype, [2, 2], numbers(0.0, -largest, largest, 1e-7)), LAYOUTS).text_width == 2
    with pytest.raises(BrokenBase, match="expected finite numbers, found others in emb_params"):
        inspect_embedding(raw(path, dtype, [2, 2], numbers(0.0, 1.0, 2.0, bad)), LAYOUTS)


def test_vectors_in_whole_numbers_or_of_other_bytes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "word.safetensors"
    with pytest.raises(BrokenBase, match="expected vectors in F16, BF16, F32, F64, found emb_params in I64"):
        inspect_embedding(raw(path, "I64", [1, 2], bytes(16)), LAYOUTS)
    with pytest.raises(BrokenBase, match=r"emb_params can't be read: 12 bytes for a shape of \[1, 2\]"):
        inspect_embedding(raw(path, "F32", [1, 2], bytes(12)), LAYOUTS)


A_VAE = "found a VAE's folder; add it with --kind vae"
A_CHECKPOINT = "found a checkpoint's folder; add it with --kind checkpoint"
THE_FILE_ITSELF = "found a checkpoint in one file; add the file itself, some.safetensors, with --kind checkpoint"
AN_EMBEDDING = "found an embedding's file; add it with --kind embedding"


@pytest.mark.parametrize(
    ("inspect", "given", "words"),
    [
        (inspect_base, BUNDLED_PATH / "vae", f"expected a checkpoint, which is .*, {A_VAE}"),
        (inspect_base, BUNDLED_PATH / "unet", "found the folder of UNet2DConditionModel"),
        (inspect_base, BUNDLED_PATH / "text_encoder", "found the folder of clip_text_model"),
        (inspect_base, BUNDLED_PATH / "nowhere", "found nothing"),
        (inspect_base, BUNDLED_PATH / "README.md", "found a file that does not end in .safetensors"),
        (inspect_base, BUNDLED_PATH.parent, "found a folder with neither model_index.json nor config.json"),
        (inspect_vae, BUNDLED_PATH, f"expected a VAE, which is the folder of an autoencoder.*, {A_CHECKPOINT}"),
        (inspect_vae, BUNDLED_PATH / "unet", "found the folder of UNet2DConditionModel"),
        (inspect_vae, BUNDLED_PATH / "unet" / WEIGHTS, "found a UNet's file"),
        (inspect_embedding, BUNDLED_PATH, f"expected an embedding, which is .*, {A_CHECKPOINT}"),
        (inspect_embedding, BUNDLED_PATH / "vae", A_VAE),
        (inspect_embedding, BUNDLED_PATH / "vae" / WEIGHTS, "found a VAE's file"),
        (inspect_embedding, BUNDLED_PATH / "nowhere", "found nothing"),
    ],
)
def test_what_is_of_another_kind_is_told_what_it_is(inspect: Callable[..., object], given: Path, words: str) -> None:
    with pytest.raises(BrokenBase, match=words):
        inspect(given, LAYOUTS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unet.down_blocks.0.lora_A.weight", "found a LoRA's file"),
        ("lora_unet_down_blocks_0.alpha", "found a LoRA's file"),
        ("double_blocks.0.img_attn.qkv.weight", THE_FILE_ITSELF),
        ("model.diffusion_model.input_blocks.0.0.weight", THE_FILE_ITSELF),
    ],
)
def test_a_file_of_another_kind_is_no_embedding(tmp_path: Path, name: str, words: str) -> None:
    given = write(tmp_path / "some.safetensors", {name: np.zeros((4, 4), np.float32)})
    with pytest.raises(BrokenBase, match=words):
        inspect_embedding(given, LAYOUTS)
    with pytest.raises(BrokenBase, match=words):
        inspect_embedding(tmp_path, LAYOUTS)


@pytest.mark.parametrize("inspect", [inspect_base, inspect_vae])
def test_a_folder_of_one_checkpoints_file_is_told_to_name_the_file(
    tmp_path: Path, inspect: Callable[..., object]
) -> None:
    write(tmp_path / "some.safetensors", {"double_blocks.0.img_attn.qkv.weight": np.zeros((4, 4), np.float32)})
    with pytest.raises(BrokenBase, match=THE_FILE_ITSELF):
        inspect(tmp_path, LAYOUTS)


@pytest.mark.parametrize("inspect", [inspect_base, inspect_vae])
def test_an_embedding_is_nothing_else(tmp_path: Path, inspect: Callable[..., object]) -> None:
    with pytest.raises(BrokenBase, match=AN_EMBEDDING):
        inspect(embedding(tmp_path, emb_params=(1, 768)), LAYOUTS)


def test_what_is_no_embedding_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BrokenBase, match=r"model_index.json nor config.json and 0 .safetensors files"):
        inspect_embedding(tmp_path, LAYOUTS)
    (tmp_path / "word.pt").write_bytes(b"pickled")
    with pytest.raises(BrokenBase, match=r"word.pt: .* pickled weights must be converted"):
        inspect_embedding(tmp_path / "word.pt", LAYOUTS)
    path = embedding(tmp_path, emb_params=(1, 768))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BrokenBase, match="its header speaks of"):
        inspect_embedding(path, LAYOUTS)
