"""Train UNet and text encoder together: python train_unet.py --work-folder DIR [--steps N] [--start-from BASE].

Needs the trained VAE in the same folder. Killed, it goes on from its last checkpoint; with more steps, it goes on too.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from latents import latent_pool
from models import build_noise_scheduler, build_text_encoder, build_unet
from pool import scene_pool
from tokenizer import build_tokenizer
from torch import Tensor, nn
from torch.nn import functional
from training import AveragedWeights, load_checkpoint, log, rate_factor, save_checkpoint
from transformers import CLIPTextModel, CLIPTokenizer

SEED = 2
POOL = 30_000
BATCH = 16
LEARNING_RATE = 8e-4
CAPTION_DROPOUT = 0.1
CHECKPOINT_EVERY = 500
_COMMON_WORD = 20  # a caption word seen less often is one of the nonsense words


class Denoiser(nn.Module):
    """The two parts that are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder(tokenizer)

    def forward(self, noisy: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """Return the velocity [batch, 8, 16, 16] for `noisy` of that shape, given token ids [batch, 77]."""
        text = self.text_encoder(token_ids).last_hidden_state
        return self.unet(noisy, timesteps, text).sample


def caption_tokenizer(captions: list[str]) -> CLIPTokenizer:
    counts = Counter(word for caption in captions for word in caption.replace(",", "").split())
    return build_tokenizer(word for word, count in counts.items() if count >= _COMMON_WORD)


def make_fast(denoiser: Denoiser) -> None:
    """Let the denoiser take the ways through PyTorch that are fast on CPUs; what it computes stays the same."""
    denoiser.unet.to(memory_format=torch.channels_last)
    # Matrix products and a softmax: forward and back in 12 ms where the fused kernel took 54 (256 positions, batch 16).
    denoiser.unet.set_attn_processor(AttnProcessor())
    denoiser.text_encoder.set_attn_implementation("eager")
    _keep_small_convolutions_in_fp32(denoiser.unet)


def _keep_small_convolutions_in_fp32(unet: UNet2DConditionModel) -> None:
    """Leave autocast out of the convolutions onto 8x8 and of those from and to 8 channels.

    Their weights' gradient took 128 ms and more in bfloat16 and 3 ms in float32 (torch 2.13 on a busy AMD EPYC, batch
    16), most of a step's time.
    """
    inner = (unet.down_blocks[0].downsamplers, unet.down_blocks[1], unet.mid_block, unet.up_blocks[0].resnets)
    for part in (unet.conv_in, *inner, unet.conv_out):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                module.forward = torch.autocast("cpu", enabled=False)(_without_half(module))


def _without_half(conv: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    def forward(hidden: Tensor) -> Tensor:
        return functional.conv2d(hidden.float(), conv.weight, conv.bias, conv.stride, conv.padding)

    return forward


def start_from(denoiser: Denoiser, base: Path, tokenizer: CLIPTokenizer) -> None:
    """Take a finished base's weights; a token that its vocabulary lacks keeps the embedding it has."""
    finished = UNet2DConditionModel.from_pretrained(base / "unet", dtype=torch.float32)
    denoiser.unet.load_state_dict(finished.state_dict())
    known = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32).state_dict()
    former = CLIPTokenizer.from_pretrained(base / "tokenizer").get_vocab()
    embedding = denoiser.text_encoder.get_input_embeddings().weight.detach().clone()
    (name,) = (name for name in known if name.endswith("token_embedding.weight"))
    for token, row in tokenizer.get_vocab().items():
        if token in former:
            embedding[row] = known[name][former[token]]
    denoiser.text_encoder.load_state_dict(known | {name: embedding})


def train(work_folder: Path, steps: int, base: Path | None) -> None:
    torch.manual_seed(SEED)
    pictures, captions = scene_pool(work_folder, POOL, SEED)
    latents = latent_pool(work_folder, pictures)
    tokenizer = caption_tokenizer(captions)
    # The last row is the empty caption, which teaches the unconditional prediction that guidance needs.
    token_ids = tokenizer([*captions, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids

    denoiser = Denoiser(tokenizer)
    if base:
        start_from(denoiser, base, tokenizer)
    make_fast(denoiser)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    averaged = AveragedWeights(denoiser, decay=0.999)
    noise_scheduler = build_noise_scheduler()
    first = 0
    if state := load_checkpoint(work_folder / "unet.pt"):
        denoiser.load_state_dict(state["denoiser"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.weights, first = state["averaged"], state["step"]

    compiled = torch.compile(denoiser)  # fewer, larger operations: 1.65 times the steps a second on two cores
    started, recent = time.monotonic(), 0.0
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_factor(step, steps)
        loss = _loss(compiled, noise_scheduler, latents, token_ids, torch.Generator().manual_seed(SEED + step))
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(denoiser, step)
        recent += loss.item()
        if (step + 1) % 100 == 0:
            log.info("step %d loss %.4f %.0f s", step + 1, recent / 100, time.monotonic() - started)
            recent = 0.0
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            state = {"denoiser": denoiser.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(work_folder / "unet.pt", state | {"averaged": averaged.weights, "step": step + 1})


def _loss(
    denoiser: Callable[..., Tensor],
    noise_scheduler: DDIMScheduler,
    latents: Tensor,
    token_ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The mean squared error of the velocity over a fresh batch."""
    chosen = torch.randint(len(latents), (BATCH,), generator=generator)
    dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
    clean, tokens = latents[chosen], token_ids[chosen.where(~dropped, len(latents))]
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = _timesteps(noise_scheduler.config.num_train_timesteps, generator)
    noisy = noise_scheduler.add_noise(clean, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = denoiser(noisy.contiguous(memory_format=torch.channels_last), timesteps, tokens)
    return functional.mse_loss(velocity.float(), noise_scheduler.get_velocity(clean, noise, timesteps))


def _timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Return timesteps [batch], half of them from anywhere, half around where the shapes are decided.

    A wrong word for the shape costs most between steps 450 and 850, by the difference of the losses.
    """
    anywhere = torch.rand(BATCH, generator=generator)
    middle = 0.6 + 0.15 * torch.randn(BATCH, generator=generator)
    share = anywhere.where(torch.arange(BATCH) % 2 == 0, middle.clamp(0, 1))
    return (share * count).long().clamp(max=count - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--start-from", type=Path, help="folder of a finished base that is trained further")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.work_folder, arguments.steps, arguments.start_from)


if __name__ == "__main__":
    main()
