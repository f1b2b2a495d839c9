"""A Stable Diffusion base on a device, and the one way pictures are drawn with it."""

import copy
import io
import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import BaseUse, DrawRequest
from maquette.families.base import BadPicture, Conditioning, Heard, LatentPosterior, NotFinite, Unsupported
from maquette.families.kept import KeptModels
from maquette.families.sd15.autoencoder import Autoencoder
from maquette.families.sd15.conditioning import PromptEncoder
from maquette.families.sd15.denoising import Denoiser, Denoising, Refiner
from maquette.families.sd15.samplers import build_scheduler, skipped_steps

# Bars are for terminals; our output is a log.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

MAX_AUTOENCODERS = 2
MAX_REFINERS = 1
"""How many of the last ones used stay loaded beside the base's own parts."""

FORMATS = ("JPEG", "PNG", "WEBP")
WHITE = (255, 255, 255, 255)


class Sd15Pipeline:
    """Autoencoder, denoiser, text encoder and noise schedule of one base, frozen."""

    def __init__(self, parts: StableDiffusionPipeline) -> None:
        self.parts = parts
        self.parts.set_progress_bar_config(disable=True)
        self.autoencoder = Autoencoder(parts.vae)
        self.unet = parts.unet.requires_grad_(False)
        self.text_encoder = parts.text_encoder.requires_grad_(False)
        device = self.unet.device
        # Kept, since the library takes a third of a second to make some.
        self._build_scheduler = cache(partial(build_scheduler, own=parts.scheduler))
        load_refiner = type(self).load
        self._autoencoders = KeptModels(partial(Autoencoder.load, device=device), most=MAX_AUTOENCODERS, device=device)
        self._refiners = KeptModels(lambda use: load_refiner(Path(use.path), device), most=MAX_REFINERS, device=device)

    @classmethod
    def load(cls, base: Path, device: torch.device) -> Self:
        """Load a base's folder in float32, whatever precision its files have.

        Raises:
            BrokenBase: the folder lacks a part, or a part can't be used.
        """
        try:
            parts = StableDiffusionPipeline.from_pretrained(
                str(base),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise BrokenBase(f"the base in {base} can't be loaded: {error}") from error
        return cls(parts.to(device))

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor) -> LatentPosterior:
        """Encode pictures (pictures, 3, height, width) in [-1, 1] to latents an eighth as wide and high."""
        return self.autoencoder.encode(pixels)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts to `prompt_embeds` (prompts, tokens, width), the way drawing does."""
        embeds, _ = self.parts.encode_prompt(
            list(prompts), self.text_encoder.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds}

    def fits(self, prompt: str) -> bool:
        """Whether a prompt has no more tokens than the text encoder's positions."""
        tokenizer = self.parts.tokenizer
        return len(tokenizer(prompt, truncation=False).input_ids) <= tokenizer.model_max_length

    @torch.no_grad()
    def draw(self, request: DrawRequest, heard: Heard | None = None) -> Image.Image:
        """Draw one picture; the noise comes from the CPU, so that every device starts from the same.

        Sides that the autoencoder can't draw are drawn a little larger, and cut. Other autoencoders and a refiner stay
        loaded.
        """
        autoencoder = self.autoencoder if request.vae is None else self._autoencoders.use(request.vae)
        self._check_autoencoder(autoencoder, request)
        denoising = self._denoising(request, heard)
        latents = self._first_pass(request, autoencoder, denoising)
        width, height = request.width, request.height
        if (hires := request.hires_fix) is not None:
            width, height = hires.width, hires.height
            latents = denoising.from_latents(enlarged(latents, autoencoder.latent_size(width, height)), hires.strength)
        _check_finite("the denoiser's latents", latents)
        return self._decode(autoencoder, latents, width, height)

    def _first_pass(self, request: DrawRequest, autoencoder: Autoencoder, denoising: Denoising) -> torch.Tensor:
        height, width = autoencoder.latent_size(request.width, request.height)
        if (original := request.original) is None:
            return denoising.from_noise((1, self.unet.config.in_channels, height, width))
        scale = autoencoder.pixels_per_latent
        pixels = _read_picture(original.picture, width * scale, height * scale)
        latents = autoencoder.encode(pixels).sample([0], denoising.random)
        return denoising.from_latents(latents, original.strength)

    def _denoising(self, request: DrawRequest, heard: Heard | None) -> Denoising:
        """What all passes of a request share.

        Raises:
            BrokenBase, Unsupported: the refiner can't be loaded, or does not continue what this base begins.
        """
        refiner: Refiner | None = None
        if request.refiner is not None:
            other = self._refiners.use(request.refiner.base)
            self._check_refiner(other, request.refiner.base)
            refiner = Refiner(other._denoiser(request), request.refiner.switch_at)
        return Denoising(
            new_scheduler=lambda: copy.deepcopy(self._build_scheduler(request.sampler)),
            steps=request.steps,
            denoiser=self._denoiser(request),
            refiner=refiner,
            random=torch.Generator().manual_seed(request.seed),
            stepped=_counter(request, heard),
        )

    def _denoiser(self, request: DrawRequest) -> Denoiser:
        encoder = PromptEncoder(
            self.parts.tokenizer, self.text_encoder, clip_skip=request.clip_skip, embeddings=request.embeddings
        )
        guided = request.guidance_scale > 1
        prompts = (request.negative_prompt, request.prompt) if guided else (request.prompt,)
        return Denoiser(self.unet, encoder.encode(*prompts), request.guidance_scale)

    def _check_autoencoder(self, autoencoder: Autoencoder, request: DrawRequest) -> None:
        own, other = self.unet.config.in_channels, autoencoder.latent_channels
        if own != other:
            which = f"in {request.vae.path}" if request.vae else "of this base"
            raise BrokenBase(f"the autoencoder {which} makes latents of {other} channels, this base's have {own}")

    def _check_refiner(self, refiner: Self, use: BaseUse) -> None:
        """Latents are handed over at one level of noise, so both must mean the same by latents and level."""
        mine, its = self.parts.scheduler, refiner.parts.scheduler
        if (
            refiner.unet.config.in_channels != self.unet.config.in_channels
            or its.config.prediction_type != mine.config.prediction_type
            or not torch.allclose(its.alphas_cumprod, mine.alphas_cumprod)
        ):
            raise Unsupported(f"refiner: {use.path} has other latents or another noise schedule than this base")

    def _decode(self, autoencoder: Autoencoder, latents: torch.Tensor, width: int, height: int) -> Image.Image:
        pixels = autoencoder.decode(latents)
        _check_finite("the autoencoder's picture", pixels)
        pictures: Any = self.parts.image_processor.postprocess(pixels, output_type="pil", do_denormalize=[True])
        picture: Image.Image = pictures[0]
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))


def enlarged(latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Latents enlarged to cover a height and width, and cut around the centre where the aspect differs."""
    height, width = size
    factor = max(height / latents.shape[2], width / latents.shape[3])
    covering = (max(height, round(latents.shape[2] * factor)), max(width, round(latents.shape[3] * factor)))
    larger = interpolate(latents, size=covering, mode="bilinear")
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return larger[:, :, top : top + height, left : left + width]


def _read_picture(data: bytes, width: int, height: int) -> torch.Tensor:
    """A picture file as (1, 3, height, width) in [-1, 1]: upright, on white, resized, cropped around the centre.

    Raises:
        BadPicture: it can't be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, WHITE), upright.convert("RGBA"))
            rgb = upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadPicture(f"the picture to start from can't be read: {error}") from error
    fitted = ImageOps.fit(rgb, (width, height), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.array(fitted, dtype=np.float32))
    return (values.permute(2, 0, 1) / 127.5 - 1)[None]


def _check_finite(what: str, values: torch.Tensor) -> None:
    if not values.isfinite().all():
        raise NotFinite(f"{what} came out as numbers that are not finite")


def _counter(request: DrawRequest, heard: Heard | None) -> Callable[[], None]:
    """What to call after each step: it tells `heard` how many of all passes' steps are done."""
    strengths = [
        1.0 if request.original is None else request.original.strength,
        *([] if request.hires_fix is None else [request.hires_fix.strength]),
    ]
    total = sum(request.steps - skipped_steps(request.steps, strength) for strength in strengths)
    done = itertools.count(1)

    def stepped() -> None:
        step = next(done)
        if heard is not None:
            heard(step, total)

    return stepped
