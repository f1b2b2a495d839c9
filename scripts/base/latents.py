"""The trained VAE with its latents brought to mean 0 and variance 1, and the pool of latents that the UNet learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from models import build_vae
from torch import Tensor
from training import as_tensor, load_checkpoint, log, save_checkpoint

VAE_CHECKPOINT = "vae.pt"
DECODER_CHECKPOINT = "decoder.pt"
LATENTS = "latents.pt"
_BATCH = 32
_PICTURES_FOR_STATISTICS = 2_000


def _normalised_vae(work_folder: Path, pictures: np.ndarray) -> AutoencoderKL:
    """Load the VAE's averaged weights and fold a normalisation of its latents into them.

    Each latent channel gets mean 0 and variance 1 over `pictures`, so the pipeline's scaling factor is honestly 1.
    """
    state = load_checkpoint(work_folder / VAE_CHECKPOINT)
    if state is None:
        raise SystemExit(f"no {VAE_CHECKPOINT} in {work_folder}: run train_vae.py first")
    vae = build_vae()
    vae.load_state_dict(state["averaged"])
    vae.requires_grad_(False)
    latents = encode(vae, pictures[:_PICTURES_FOR_STATISTICS])
    _fold(vae, latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)))
    return vae


def _fold(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Let the encoder end with (z - mean) / std and the decoder begin by undoing it; exact, as both are 1x1."""
    channels = len(mean)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    scale = torch.cat([1 / std, torch.ones(channels)])
    shift = torch.cat([-mean / std, -2 * std.log()])  # of the means, and of the logarithms of the variances
    into.weight.mul_(scale[:, None, None, None])
    into.bias.mul_(scale).add_(shift)
    out_of.bias.add_(out_of.weight[:, :, 0, 0] @ mean)
    out_of.weight.mul_(std[None, :, None, None])


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    """Return the means of the pictures' latents, [count, 8, 16, 16]."""
    latents = []
    for first in range(0, len(pictures), _BATCH):
        batch = as_tensor(pictures[first : first + _BATCH]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(batch).latent_dist.mean.float())
    return torch.cat(latents)


def latent_pool(work_folder: Path, pictures: np.ndarray) -> Tensor:
    """Return the latents of `pictures` by the normalised VAE; both are kept in the work folder."""
    file = work_folder / LATENTS
    if saved := load_checkpoint(file):
        return saved["latents"]
    log.info("encoding %d pictures", len(pictures))
    vae = _normalised_vae(work_folder, pictures)
    latents = encode(vae, pictures)
    save_checkpoint(file, {"vae": vae.state_dict(), "latents": latents})
    return latents


def finished_vae(work_folder: Path) -> AutoencoderKL:
    """Load the VAE whose latents the UNet learns, with its decoder as far as that has been trained since."""
    vae = build_vae()
    vae.load_state_dict(torch.load(work_folder / LATENTS, weights_only=True)["vae"])
    if state := load_checkpoint(work_folder / DECODER_CHECKPOINT):
        vae.load_state_dict(state["averaged"])
    return vae
