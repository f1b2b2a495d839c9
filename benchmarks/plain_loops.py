"""The training loops that people write with diffusers and accelerate, one a family, to measure ours beside.

They are in the manner of diffusers' DreamBooth LoRA examples for Stable Diffusion, SDXL and FLUX.1, at their defaults:
every step opens pictures and encodes them; prompts are encoded in every step too by the first, and once by the others.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, FluxPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import cast_training_params, compute_density_for_timestep_sampling
from peft import LoraConfig
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from maquette.families.pixels import to_pixels

Told: TypeAlias = Mapping[str, torch.Tensor]
"""What the denoiser is told of prompts."""


class Pictures(Dataset[tuple[torch.Tensor, str]]):
    """Pictures and their prompt, opened anew each time."""

    def __init__(self, paths: Sequence[Path], prompt: str, opened: Callable[[Path], Any]) -> None:
        self.paths, self.prompt, self.opened = paths, prompt, opened

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return to_pixels(self.opened(self.paths[index])), self.prompt


class PlainLoop(ABC):
    """A loop of one family.

    Attributes:
        DENOISER: its name in diffusers' pipeline.
        ENCODES_ONCE: whether prompts that are all the same are encoded once, before the first step.
        AUTOENCODER_DTYPE: None is the denoiser's.
        before: seconds that were spent on prompts before the first step.
    """

    DENOISER: ClassVar = "unet"
    ENCODES_ONCE: ClassVar = True
    AUTOENCODER_DTYPE: ClassVar[torch.dtype | None] = None

    def __init__(
        self, parts: Any, pictures: Pictures, device: torch.device, *, targets: Sequence[str], rank: int, rate: float
    ) -> None:
        """Put a LoRA on the base `parts`, on these layers of its denoiser, and make what a loop needs."""
        half = device.type == "cuda"
        self.parts, self.dtype = parts, torch.bfloat16 if half else torch.float32
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")
        for part in parts.components.values():
            if isinstance(part, torch.nn.Module):
                wanted = self.AUTOENCODER_DTYPE if part is parts.vae else None
                part.requires_grad_(False).to(self.accelerator.device, dtype=wanted or self.dtype)
        self.denoiser: Any = getattr(parts, self.DENOISER)
        self.denoiser.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian")
        )
        cast_training_params(self.denoiser, torch.float32)
        self.trained = [weight for weight in self.denoiser.parameters() if weight.requires_grad]
        self.optimizer: Any = torch.optim.AdamW(self.trained, lr=rate, weight_decay=1e-2)
        self.schedule: Any = get_scheduler("constant", optimizer=self.optimizer)
        began = time.perf_counter()
        self.told = self.encode([pictures.prompt]) if self.ENCODES_ONCE else None
        self.before = time.perf_counter() - began

    def prepare(self, pictures: Pictures, batch: int) -> Iterator[tuple[torch.Tensor, Sequence[str]]]:
        """Hand all to accelerate; an endless row of batches."""
        loader: Any = DataLoader(pictures, batch_size=batch, shuffle=True)
        self.denoiser, self.optimizer, loader, self.schedule = self.accelerator.prepare(
            self.denoiser, self.optimizer, loader, self.schedule
        )
        return itertools.chain.from_iterable(itertools.repeat(loader))

    def step(self, pixels: torch.Tensor, prompts: Sequence[str]) -> None:
        """One optimiser step."""
        with self.accelerator.accumulate(self.denoiser):
            vae = self.parts.vae
            latents = vae.encode(pixels.to(self.accelerator.device, vae.dtype)).latent_dist.sample()
            latents = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
            told = self.encode(prompts) if self.told is None else repeated(self.told, len(prompts))
            prediction, target = self.predict(latents.to(self.dtype), told)
            loss = mse_loss(prediction.float(), target.float())
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        loss.detach().item()

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Told:
        """What the text encoders say of prompts."""

    @abstractmethod
    def predict(self, latents: torch.Tensor, told: Told) -> tuple[torch.Tensor, torch.Tensor]:
        """What the denoiser says of latents that noise was added to, and what it should say."""


class PlainDiffusion(PlainLoop):
    """Of bases that predict noise, or its velocity."""

    def __init__(self, parts: Any, pictures: Pictures, device: torch.device, **options: Any) -> None:
        super().__init__(parts, pictures, device, **options)
        self.noise_scheduler: Any = DDPMScheduler.from_config(parts.scheduler.config)

    def predict(self, latents: torch.Tensor, told: Told) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PlainLoop.predict`."""
        config = self.noise_scheduler.config
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        prediction = self.call(noisy, timesteps, told)
        is_noise = config.prediction_type == "epsilon"
        return prediction, noise if is_noise else self.noise_scheduler.get_velocity(latents, noise, timesteps)

    @abstractmethod
    def call(self, noisy: torch.Tensor, timesteps: torch.Tensor, told: Told) -> torch.Tensor:
        """Ask the denoiser."""


class PlainSd15(PlainDiffusion):
    """As `train_dreambooth_lora.py`."""

    ENCODES_ONCE = False

    def encode(self, prompts: Sequence[str]) -> Told:
        """See `PlainLoop.encode`."""
        tokens = self.parts.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        return {"embeds": self.parts.text_encoder(tokens.input_ids.to(self.accelerator.device), return_dict=False)[0]}

    def call(self, noisy: torch.Tensor, timesteps: torch.Tensor, told: Told) -> torch.Tensor:
        """See `PlainDiffusion.call`."""
        return self.denoiser(noisy, timesteps, told["embeds"], return_dict=False)[0]


class PlainSdxl(PlainDiffusion):
    """As `train_dreambooth_lora_sdxl.py`, whose autoencoder stays in float32."""

    AUTOENCODER_DTYPE = torch.float32

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Told:
        """See `PlainLoop.encode`."""
        embeds, _, pooled, _ = self.parts.encode_prompt(
            list(prompts), device=self.accelerator.device, do_classifier_free_guidance=False
        )
        return {"embeds": embeds, "text_embeds": pooled}

    def call(self, noisy: torch.Tensor, timesteps: torch.Tensor, told: Told) -> torch.Tensor:
        """See `PlainDiffusion.call`."""
        height, width = (8 * side for side in noisy.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device, dtype=noisy.dtype)
        added = {"text_embeds": told["text_embeds"], "time_ids": sizes.repeat(len(noisy), 1)}
        return self.denoiser(noisy, timesteps, told["embeds"], added_cond_kwargs=added, return_dict=False)[0]


class PlainFlux1(PlainLoop):
    """As `train_dreambooth_lora_flux.py`."""

    DENOISER = "transformer"

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Told:
        """See `PlainLoop.encode`."""
        embeds, pooled, places = self.parts.encode_prompt(
            list(prompts), None, device=self.accelerator.device, max_sequence_length=512
        )
        return {"embeds": embeds, "pooled": pooled, "places": places}

    def predict(self, latents: torch.Tensor, told: Told) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PlainLoop.predict`."""
        scheduler = self.parts.scheduler
        count, channels, height, width = latents.shape
        noise = torch.randn_like(latents)
        drawn = compute_density_for_timestep_sampling("none", batch_size=count, logit_mean=0.0, logit_std=1.0)
        indices = (drawn * scheduler.config.num_train_timesteps).long()
        timesteps = scheduler.timesteps[indices].to(latents.device)
        sigmas = scheduler.sigmas[indices].to(latents).view(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * latents + sigmas * noise
        guided = self.accelerator.unwrap_model(self.denoiser).config.guidance_embeds
        said = self.denoiser(
            hidden_states=FluxPipeline._pack_latents(noisy, count, channels, height, width),
            timestep=timesteps / 1000,
            guidance=torch.ones(count, device=latents.device) if guided else None,
            pooled_projections=told["pooled"],
            encoder_hidden_states=told["embeds"],
            txt_ids=told["places"],
            img_ids=FluxPipeline._prepare_latent_image_ids(
                count, height // 2, width // 2, latents.device, latents.dtype
            ),
            return_dict=False,
        )[0]
        return FluxPipeline._unpack_latents(said, height * 8, width * 8, 8), noise - latents


PLAIN_LOOPS: Mapping[str, type[PlainLoop]] = {"sd15": PlainSd15, "sdxl": PlainSdxl, "flux1": PlainFlux1}


def repeated(told: Told, count: int) -> Told:
    """What was said of one prompt, for so many pictures; where tokens are is the same for all."""
    return {
        name: values if name == "places" else values.repeat(count, *[1] * (values.ndim - 1))
        for name, values in told.items()
    }
