"""Train the VAE: python train_vae.py --work-folder DIR [--steps N] [--start-from BASE] [--decoder-only].

Killed, it goes on from its last checkpoint. The decoder alone may be trained further at any time after the UNet: the
latents, which the UNet knows, stay what they are while the pictures get sharper. It learns to draw from latents that
are a little off as well, since the UNet's are never exact: without that, each small error would show as a stain.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from latents import DECODER_CHECKPOINT, VAE_CHECKPOINT, finished_vae
from models import build_vae
from pool import jumble_pool, scene_pool
from torch import Tensor
from torch.nn import functional
from training import AveragedWeights, as_tensor, load_checkpoint, log, psnr, rate_factor, save_checkpoint

SEED = 1
POOL = 12_000
BATCH = 4
LEARNING_RATE = 1e-3
KL_WEIGHT = 1e-4
GRADIENT_WEIGHT = 0.5
DECODER_NOISE = 0.25
"""Standard deviation, at most, of the noise on the latents (of variance 1) that the decoder alone is trained on."""
CHECKPOINT_EVERY = 500


def train(vae: AutoencoderKL, work_folder: Path, checkpoint: Path, steps: int, noise: float = 0.0) -> None:
    """Train what is not frozen of `vae` up to step number `steps`, with `noise` at most on the latents."""
    torch.manual_seed(SEED)
    pictures = (scene_pool(work_folder, POOL, SEED)[0], jumble_pool(work_folder, POOL, SEED))
    held_out = as_tensor(jumble_pool(work_folder, 64, SEED + 1))
    vae.to(memory_format=torch.channels_last)
    weights = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    averaged = AveragedWeights(vae, decay=0.998)
    first = 0
    if state := load_checkpoint(checkpoint):
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.weights, first = state["averaged"], state["step"]

    started = time.monotonic()
    for step in range(first, steps):
        torch.manual_seed(SEED + step)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_factor(step, steps)
        batch = as_tensor(_batch(pictures, np.random.default_rng((SEED, step))))
        loss = _loss(vae, batch, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(vae, step)
        if step % 50 == 0:
            log.info("step %d loss %.4f %.0f s", step, loss.item(), time.monotonic() - started)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "averaged": averaged.weights}
            save_checkpoint(checkpoint, state | {"step": step + 1})
            log.info("step %d held-out PSNR %.2f dB", step + 1, _held_out_psnr(averaged.weights, held_out))


def _batch(pools: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    """Half scenes, half jumbles, mirrored and with their colour channels swapped now and then."""
    drawn = []
    for number in range(BATCH):
        pool = pools[number % len(pools)]
        picture = pool[rng.integers(len(pool))]
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        if rng.random() < 0.4:
            picture = picture[:, :, rng.permutation(3)]
        drawn.append(picture)
    return np.stack(drawn)


def _loss(vae: torch.nn.Module, pictures: Tensor, noise: float) -> Tensor:
    """Differences of colour and of edges, and a little KL so that nearby latents mean nearby pictures."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(pictures).latent_dist
        strength = noise * torch.rand(len(pictures), 1, 1, 1)
        drawn = vae.decode(latents.sample() + strength * torch.randn_like(latents.mean)).sample
    error = drawn.float() - pictures
    across, down = error.diff(dim=3), error.diff(dim=2)
    edges = across.abs().mean() + down.abs().mean()
    mean, log_variance = latents.mean.float(), latents.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return (
        functional.l1_loss(drawn.float(), pictures) + error.square().mean() + GRADIENT_WEIGHT * edges + KL_WEIGHT * kl
    )


def _first_vae(base: Path | None) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(base / "vae", dtype=torch.float32) if base else build_vae()


def _with_frozen_encoder(vae: AutoencoderKL) -> AutoencoderKL:
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    return vae


@torch.no_grad()
def _held_out_psnr(weights: dict[str, Tensor], pictures: Tensor) -> float:
    vae = build_vae()
    vae.load_state_dict(weights)
    return psnr(vae.decode(vae.encode(pictures).latent_dist.mean).sample, pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--start-from", type=Path, help="folder of a finished base whose VAE is trained further")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder, and so the latents, alone")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.work_folder.mkdir(parents=True, exist_ok=True)
    work_folder, steps = arguments.work_folder, arguments.steps
    if arguments.decoder_only:
        vae, checkpoint = _with_frozen_encoder(finished_vae(work_folder)), work_folder / DECODER_CHECKPOINT
        train(vae, work_folder, checkpoint, steps, DECODER_NOISE)
    else:
        train(_first_vae(arguments.start_from), work_folder, work_folder / VAE_CHECKPOINT, steps)


if __name__ == "__main__":
    main()
