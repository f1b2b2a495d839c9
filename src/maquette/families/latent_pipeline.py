"""A base on a device, and the one way pictures are drawn with it: in latents, whatever denoises them."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from PIL import Image
from torch.nn.functional import interpolate

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import BaseUse, DrawRequest, Sampler
from maquette.families.autoencoder import Autoencoder
from maquette.families.base import (
    TEXT_ENCODERS,
    Bring,
    Conditioning,
    LatentPosterior,
    NotFinite,
    OnStep,
    OriginalSize,
    Part,
    Unsupported,
    all_there,
)
from maquette.families.denoising import Denoising, GuidedDenoiser, Refiner
from maquette.families.kept import KeptModels
from maquette.families.loading import load_parts
from maquette.families.pixels import read_original
from maquette.families.samplers import skipped_steps

MAX_AUTOENCODERS = 2
MAX_REFINERS = 1
"""How many of the last ones used stay loaded beside the base's own parts."""


class Samplers(Protocol):
    """The published samplers as schedulers of diffusers' kind, for the noise that one base was trained with."""

    def scheduler(self, sampler: Sampler | None, shape: tuple[int, ...]) -> Any:
        """A new scheduler for one pass over latents of this shape; None is the base's own sampler.

        Raises:
            Unsupported: the sampler makes no sense for this base.
        """
        ...

    def agree(self, other: Self) -> bool:
        """Whether a level of noise, and what is predicted there, mean the same to both."""
        ...


class LatentPipeline(ABC):
    """Autoencoder, denoiser, text encoders and noise schedule of one base, frozen.

    A family's subclass says which of diffusers' pipelines holds its parts, how prompts are encoded, to train with and
    to draw with, and how its denoiser is called; everything else is here.

    Attributes:
        LIBRARY: diffusers' pipeline class.
        ABSENT: components that it knows and we do without, as arguments of its `from_pretrained`.
        AUTOENCODER: how its autoencoder is loaded and called.
        FROZEN_ENCODERS: text encoders that no LoRA is put on, by their names in `parts`.
        PATCH: latents that the denoiser reads as one, along a side; sides are multiples of it.
        parts: diffusers' pipeline, loaded. Each of its components that is a model is of one `Part`.
        denoiser: its UNet or transformer.
        device: where it works; parts that are not at work may wait elsewhere.
    """

    LIBRARY: ClassVar[Any]
    ABSENT: ClassVar[Mapping[str, Any]] = {}
    AUTOENCODER: ClassVar[type[Autoencoder]] = Autoencoder
    FROZEN_ENCODERS: ClassVar[Sequence[str]] = ()
    PATCH: ClassVar[int] = 1

    def __init__(self, parts: Any, denoiser: Any, samplers: Samplers) -> None:
        self.parts = parts
        self.parts.set_progress_bar_config(disable=True)
        for part in parts.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)
        self.denoiser = denoiser
        self.device: torch.device = denoiser.device
        self.autoencoder = self.AUTOENCODER(parts.vae)
        self.samplers = samplers

    @classmethod
    def load(cls, base: Path, device: torch.device, *, waiting: bool = False) -> Self:
        """Load a base's folder in the device's precision, whatever its files have.

        Raises:
            BrokenBase: the folder lacks a part, or a part can't be used.
        """
        parts = load_parts(cls.LIBRARY, base, device, cls.ABSENT)
        pipeline = cls(parts if waiting else parts.to(device))  # pyright: ignore[reportCallIssue] # Families take parts alone.
        pipeline.device = device
        return pipeline

    @property
    def latent_channels(self) -> int:
        """Of the latents that the denoiser reads."""
        return self.denoiser.config.in_channels

    @property
    def modules(self) -> Mapping[Part, Sequence[torch.nn.Module]]:
        """What each part is made of."""
        others = (self.denoiser, self.autoencoder.vae)
        encoders = {
            name: part
            for name, part in self.parts.components.items()
            if isinstance(part, torch.nn.Module) and part not in others
        }
        return {
            Part.AUTOENCODER: (self.autoencoder.vae,),
            Part.TRAINED_ENCODERS: [one for name, one in encoders.items() if name not in self.FROZEN_ENCODERS],
            Part.FROZEN_ENCODERS: [one for name, one in encoders.items() if name in self.FROZEN_ENCODERS],
            Part.DENOISER: (self.denoiser,),
        }

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor) -> LatentPosterior:
        """Encode pictures (pictures, 3, height, width) in [-1, 1] to latents in the denoiser's scale."""
        return self.autoencoder.encode(pixels)

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts to train with. Gradients flow where adapters on a text encoder train."""

    def encode_trained(self, prompts: Sequence[str]) -> Conditioning:
        """All entries, or none: in most families a LoRA may be put on every text encoder, or on none."""
        return self.encode_prompts(prompts) if self.modules[Part.TRAINED_ENCODERS] else {}

    def with_original_sizes(
        self,
        conditioning: Conditioning,
        original_sizes: Sequence[OriginalSize],  # noqa: ARG002 - for denoisers that ask
    ) -> Conditioning:
        """Prompts alone, since most denoisers are not told what became of pictures before they are trained on."""
        return conditioning

    @abstractmethod
    def reads_whole_prompt(self, prompt: str) -> bool:
        """Whether a text encoder reads the whole prompt in training, rather than its beginning."""

    @abstractmethod
    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """What the denoiser says of latents (pictures, channels, height, width), in their shape."""

    @abstractmethod
    def denoiser_for(self, request: DrawRequest) -> GuidedDenoiser:
        """The denoiser with all that it is told for one picture.

        Raises:
            BrokenBase: an embedding can't be used.
            Unsupported: the request asks for what the text encoders can't do.
        """

    @torch.no_grad()
    def draw(self, request: DrawRequest, on_step: OnStep | None = None, bring: Bring = all_there) -> Image.Image:
        """Draw one picture; the noise comes from the CPU, so that every device starts from the same.

        Sides that the autoencoder can't draw are drawn a little larger, and cut. Other autoencoders and a refiner stay
        loaded.
        """
        autoencoder = self.autoencoder if request.vae is None else self._autoencoders.use(request.vae)
        self._check_autoencoder(autoencoder, request)
        bring(*TEXT_ENCODERS)
        denoising = self._denoising(request, on_step)
        latents = self._first_pass(request, autoencoder, denoising, bring)
        width, height = request.width, request.height
        if (hires := request.hires_fix) is not None:
            width, height = hires.width, hires.height
            size = self._latent_size(autoencoder, width, height)
            latents = denoising.from_latents(enlarged(latents, size), hires.strength)
        _check_finite("the denoiser's latents", latents)
        bring(Part.AUTOENCODER)
        return self._decode(autoencoder, latents, width, height)

    def _first_pass(
        self, request: DrawRequest, autoencoder: Autoencoder, denoising: Denoising, bring: Bring
    ) -> torch.Tensor:
        height, width = self._latent_size(autoencoder, request.width, request.height)
        if (original := request.original) is None:
            bring(Part.DENOISER)
            return denoising.from_noise((1, self.latent_channels, height, width))
        bring(Part.AUTOENCODER)
        scale = autoencoder.pixels_per_latent
        pixels = read_original(original.picture, width * scale, height * scale)
        latents = autoencoder.encode(pixels).sample(denoising.random)
        bring(Part.DENOISER)
        return denoising.from_latents(latents, original.strength)

    def _denoising(self, request: DrawRequest, on_step: OnStep | None) -> Denoising:
        """What all passes of a request share.

        Raises:
            BrokenBase, Unsupported: the refiner can't be loaded, or does not continue what this base begins.
        """
        refiner: Refiner | None = None
        if request.refiner is not None:
            other = self._refiners.use(request.refiner.base)
            self._check_refiner(other, request.refiner.base)
            refiner = Refiner(other.denoiser_for(request), request.refiner.switch_at)
        return Denoising(
            new_scheduler=partial(self.samplers.scheduler, request.sampler),
            steps=request.steps,
            denoiser=self.denoiser_for(request),
            refiner=refiner,
            device=self.device,
            random=torch.Generator().manual_seed(request.seed),
            stepped=_counter(request, on_step),
        )

    @cached_property
    def _autoencoders(self) -> KeptModels[Autoencoder]:
        load = partial(self.AUTOENCODER.load, device=self.device)
        return KeptModels(load, most=MAX_AUTOENCODERS, device=self.device)

    @cached_property
    def _refiners(self) -> KeptModels[Self]:
        load, device = type(self).load, self.device
        return KeptModels(lambda use: load(Path(use.path), device), most=MAX_REFINERS, device=device)

    def _latent_size(self, autoencoder: Autoencoder, width: int, height: int) -> tuple[int, int]:
        """Height and width, in whole patches, of the latents of a picture at least this large."""
        rows, columns = autoencoder.latent_size(width, height)
        return -(-rows // self.PATCH) * self.PATCH, -(-columns // self.PATCH) * self.PATCH

    def _check_autoencoder(self, autoencoder: Autoencoder, request: DrawRequest) -> None:
        own, other = self.latent_channels, autoencoder.latent_channels
        if own != other:
            which = f"in {request.vae.path}" if request.vae else "of this base"
            raise BrokenBase(f"the autoencoder {which} makes latents of {other} channels, this base's have {own}")

    def _check_refiner(self, refiner: Self, use: BaseUse) -> None:
        """Latents are handed over at one level of noise, so both must mean the same by latents and level."""
        if refiner.latent_channels != self.latent_channels or not self.samplers.agree(refiner.samplers):
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


def _check_finite(what: str, values: torch.Tensor) -> None:
    if not values.isfinite().all():
        raise NotFinite(f"{what} came out as numbers that are not finite")


def _counter(request: DrawRequest, on_step: OnStep | None) -> Callable[[], None]:
    """What to call after each step: it tells `on_step` how many of all passes' steps are done."""
    strengths = [
        1.0 if request.original is None else request.original.strength,
        *([] if request.hires_fix is None else [request.hires_fix.strength]),
    ]
    total = sum(request.steps - skipped_steps(request.steps, strength) for strength in strengths)
    done = itertools.count(1)

    def stepped() -> None:
        step = next(done)
        if on_step is not None:
            on_step(step, total)

    return stepped
