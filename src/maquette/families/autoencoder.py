"""A base's autoencoder: between pictures and latents, in pieces where a picture is large."""

import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import BaseUse
from maquette.families.base import LatentPosterior
from maquette.families.loading import misfit
from maquette.families.memory import MOST_PIXELS

OVERLAP = 4
"""Neighbouring tiles share one of so many parts of their sides, where one fades into the other."""


class Autoencoder:
    """An autoencoder, frozen, and how its latents are scaled for the denoiser.

    Families whose autoencoder is of another class than `AutoencoderKL` have a subclass of this, which says what differs
    of `LIBRARY`, the properties, `moments` and `pixels`; loading, scaling and tiles are here.

    Attributes:
        LIBRARY: diffusers' class.
        vae: its model.
    """

    LIBRARY: ClassVar[Any] = AutoencoderKL

    def __init__(self, vae: Any, *, most_pixels: int = MOST_PIXELS) -> None:
        self.vae = vae.requires_grad_(False)
        self._tile = math.isqrt(most_pixels) // self.pixels_per_latent

    @classmethod
    def load(cls, use: BaseUse, device: torch.device) -> Self:
        """Load an autoencoder's folder in float32.

        Raises:
            BrokenBase: it can't be used.
        """
        try:
            loaded: Any = cls.LIBRARY.from_pretrained(
                use.path, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise BrokenBase(f"the autoencoder in {use.path} can't be loaded: {misfit(error) or error}") from error
        vae, told = loaded
        # The library fills what a file lacks with random values, and only warns.
        if missing := sorted(told["missing_keys"]):
            raise BrokenBase(f"the autoencoder in {use.path} lacks {len(missing)} weights: {', '.join(missing[:3])}")
        return cls(vae.to(device))

    @property
    def latent_channels(self) -> int:
        """Of its latents."""
        return self.vae.config.latent_channels

    @property
    def pixels_per_latent(self) -> int:
        """How many times a picture is as wide and high as its latents."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def scale(self) -> float | torch.Tensor:
        """What latents are multiplied with for the denoiser, after `shift`; or one a channel, (channels, 1, 1)."""
        return self.vae.config.scaling_factor

    @property
    def shift(self) -> float | torch.Tensor:
        """What is taken from latents for the denoiser; as `scale`."""
        return self.vae.config.shift_factor or 0.0

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the latents of a picture at least this large."""
        scale = self.pixels_per_latent
        return -(-height // scale), -(-width // scale)

    def encode(self, pixels: torch.Tensor) -> LatentPosterior:
        """Encode pictures (pictures, 3, height, width) in [-1, 1]; sides are multiples of `pixels_per_latent`."""
        moments = in_tiles(self.moments, pixels.to(self.vae.device), self._tile, self.pixels_per_latent, 1)
        mean, std = moments.chunk(2, dim=1)
        return LatentPosterior(mean=(mean - self.shift) * self.scale, std=std * self.scale)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents in the denoiser's scale to pictures (pictures, 3, height, width), about in [-1, 1]."""
        return in_tiles(self.pixels, latents / self.scale + self.shift, self._tile, 1, self.pixels_per_latent)

    def moments(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the model says of pictures: means and, behind them, deviations, (pictures, 2 * channels, …)."""
        posterior = self.vae.encode(pixels).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """What the model makes of latents in its own scale."""
        return self.vae.decode(latents, return_dict=False)[0]


def in_tiles(
    run: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, tile: int, step_in: int, step_out: int
) -> torch.Tensor:
    """What `run` makes of inputs (count, channels, height, width): of all at once, or of tiles that fade into another.

    The library's own tiling puts the last tile, where that is a sliver, in the wrong place.

    Args:
        tile: side of a tile; where its square is enough for the inputs, there are none.
        step_in, step_out: how many numbers of inputs and outputs lie on one unit of its side.
    """
    height, width = (side // step_in for side in inputs.shape[2:])
    if height * width <= tile**2:
        return run(inputs)
    total = weights = torch.zeros(())
    for top, left in itertools.product(starts(height, tile), starts(width, tile)):
        piece = inputs[:, :, top * step_in : (top + tile) * step_in, left * step_in : (left + tile) * step_in]
        made = run(piece)
        if not total.ndim:
            total = made.new_zeros(*made.shape[:2], height * step_out, width * step_out)
            weights = torch.zeros_like(total[:1, :1])
        rows, columns = made.shape[2:]
        place = (..., slice(top * step_out, top * step_out + rows), slice(left * step_out, left * step_out + columns))
        fade = _fading(rows, tile * step_out)[:, None] * _fading(columns, tile * step_out)
        fade = fade.to(made)
        total[place] += made * fade
        weights[place] += fade
    return total / weights


def starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that cover a length: evenly spread, none reaching beyond it, sharing enough with the next."""
    if length <= tile:
        return [0]
    step = tile - tile // OVERLAP
    gaps = -(-(length - tile) // step)
    return [round(index * (length - tile) / gaps) for index in range(gaps + 1)]


def _fading(length: int, tile: int) -> torch.Tensor:
    """Weights along a tile's side: rising from its ends over what it shares with its neighbours."""
    to_begin = torch.arange(1, length + 1)
    return torch.minimum(to_begin, to_begin.flip(0)).clamp(max=max(tile // OVERLAP, 1)).float()
