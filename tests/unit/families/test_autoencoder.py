"""Pictures and latents in tiles: no more at once than the bound, and the same picture."""

import itertools
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.core.drawing import BaseUse, DrawRequest
from maquette.families.autoencoder import MOST_PIXELS, OVERLAP, Autoencoder, in_tiles, starts
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.tiny_family import build_tiny_base

pytestmark = pytest.mark.torch

TILE = 64
"""Pixels of the small tiles' sides."""
SIZES = [(128, 128), (200, 72), (72, 200), (136, 64)]


@pytest.fixture(scope="module")
def whole() -> Autoencoder:
    return Sd15Pipeline.load(BUNDLED_PATH, torch.device("cpu")).autoencoder


@pytest.fixture
def tiled(whole: Autoencoder) -> Autoencoder:
    """The same, in small tiles."""
    return Autoencoder(whole.vae, most_pixels=TILE * TILE)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """A picture of the example character (1, 3, 256, 256)."""
    with as_file(files("maquette") / "examples" / "pelu" / "01.png") as path, Image.open(path) as image:
        values = np.array(image.convert("RGB").resize((256, 256)), dtype=np.float32)
    return (torch.from_numpy(values).permute(2, 0, 1) / 127.5 - 1)[None]


def largest(module: torch.nn.Module, sizes: list[int]) -> Any:
    """Note the height times width of whatever a module is given."""
    return module.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2] * inputs[0].shape[3]))


@pytest.mark.parametrize(("width", "height"), SIZES)
@torch.no_grad()
def test_tiles_make_the_same_picture_and_no_more_at_once(
    whole: Autoencoder, tiled: Autoencoder, pixels: torch.Tensor, width: int, height: int
) -> None:
    pixels = pixels[:, :, :height, :width]
    latents, in_pieces = whole.encode(pixels), tiled.encode(pixels)
    # What a tile of so few pixels sees shifts its numbers a little.
    assert (in_pieces.mean - latents.mean).abs().mean() < 0.2 * latents.mean.std()
    assert in_pieces.std.shape == latents.std.shape
    at_once: list[int] = []
    hook = largest(tiled.vae.decoder, at_once)
    decoded = tiled.decode(latents.mean)
    hook.remove()
    assert max(at_once) * tiled.pixels_per_latent**2 <= TILE * TILE
    assert len(at_once) > 1
    reference = whole.decode(latents.mean)
    assert decoded.shape == reference.shape
    assert (decoded - reference).abs().mean() < 0.06


@torch.no_grad()
def test_what_is_no_larger_than_the_bound_goes_as_a_whole(tiled: Autoencoder, pixels: torch.Tensor) -> None:
    small = pixels[:, :, :32, :128]
    posterior = tiled.vae.encode(small).latent_dist
    scale = tiled.vae.config.scaling_factor
    assert torch.equal(tiled.encode(small).mean, posterior.mean * scale)
    latents = tiled.encode(small).mean
    assert torch.equal(tiled.decode(latents), tiled.vae.decode(latents / scale).sample)


@torch.no_grad()
def test_a_base_has_a_bound(tmp_path: Path) -> None:
    tiny = Sd15Pipeline.load(build_tiny_base(tmp_path / "tiny"), torch.device("cpu")).autoencoder
    at_once: list[int] = []
    largest(tiny.vae.decoder, at_once)
    side = 1024 // tiny.pixels_per_latent
    decoded = tiny.decode(torch.zeros(1, tiny.latent_channels, side, side + 1))
    assert decoded.shape == (1, 3, 1024, 1024 + tiny.pixels_per_latent)
    assert len(at_once) > 1
    assert max(at_once) * tiny.pixels_per_latent**2 <= MOST_PIXELS


@given(st.integers(1, 500), st.integers(4, 64))
def test_tiles_cover_a_length_and_share_enough(length: int, tile: int) -> None:
    begins = starts(length, tile)
    assert begins[0] == 0
    assert begins[-1] == max(length - tile, 0)
    for one, other in itertools.pairwise(begins):
        assert 0 < other - one <= tile - tile // OVERLAP


@settings(deadline=None)  # Many tiles take long on a busy machine.
@given(st.integers(1, 24), st.integers(1, 24), st.integers(2, 9), st.sampled_from([(1, 2), (2, 1), (1, 1)]))
def test_what_does_not_depend_on_neighbours_comes_out_as_of_the_whole(
    height: int, width: int, tile: int, steps: tuple[int, int]
) -> None:
    step_in, step_out = steps
    inputs = torch.rand(2, 3, height * step_in, width * step_in)

    def run(piece: torch.Tensor) -> torch.Tensor:
        return piece[:, :, ::step_in, ::step_in].repeat_interleave(step_out, 2).repeat_interleave(step_out, 3)

    torch.testing.assert_close(in_tiles(run, inputs, tile, step_in, step_out), run(inputs))


class VideoAutoencoder(Autoencoder):
    """Of a class that none of our families has: for videos, and with a scale for each channel."""

    LIBRARY = AutoencoderKLQwenImage

    @property
    def latent_channels(self) -> int:
        return self.vae.config.z_dim

    @property
    def pixels_per_latent(self) -> int:
        return 2 ** (len(self.vae.config.dim_mult) - 1)

    @property
    def scale(self) -> torch.Tensor:
        return 1 / torch.tensor(self.vae.config.latents_std)[:, None, None]

    @property
    def shift(self) -> torch.Tensor:
        return torch.tensor(self.vae.config.latents_mean)[:, None, None]

    def moments(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().moments(pixels[:, :, None])[:, :, 0]

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        return super().pixels(latents[:, :, None])[:, :, 0]


class VideoPipeline(Sd15Pipeline):
    AUTOENCODER = VideoAutoencoder


@torch.no_grad()
def test_a_family_may_bring_an_autoencoder_of_another_class(tmp_path: Path, pixels: torch.Tensor) -> None:
    torch.manual_seed(0)
    model: Any = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.1, 0.2, 0.3, 0.4],
        latents_std=[1.0, 2.0, 3.0, 4.0],
    )
    model.save_pretrained(tmp_path)
    found = VideoAutoencoder.load(BaseUse(str(tmp_path), ""), torch.device("cpu"))
    picture = pixels[:, :, :64, :64]
    latents = found.encode(picture)
    expected = model.encode(picture[:, :, None]).latent_dist.mean[:, :, 0]
    assert latents.mean.shape == (1, found.latent_channels, *found.latent_size(64, 64))
    assert torch.allclose(latents.mean[0, 3], (expected[0, 3] - 0.4) / 4)
    assert torch.allclose(found.decode(latents.mean), model.decode(expected[:, :, None]).sample[:, :, 0], atol=1e-5)

    parts = Sd15Pipeline.load(build_tiny_base(tmp_path / "base"), torch.device("cpu")).parts
    parts.vae = model
    request = DrawRequest(prompt="ohwx", width=64, height=64, steps=2, guidance_scale=1.0, seed=0)
    assert VideoPipeline(parts).draw(request).size == (64, 64)
