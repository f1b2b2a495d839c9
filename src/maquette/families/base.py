"""What a family brings: a pipeline, an objective and adapters. Trainer and inference worker know only these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeAlias

import torch
from PIL import Image

from maquette.core.drawing import DrawRequest
from maquette.core.registry import load_dotted
from maquette.core.specs import TrainingSettings
from maquette.core.weights import BrokenWeights
from maquette.families.lora import LoadedLora
from maquette.families.registry import load_spec

Conditioning: TypeAlias = dict[str, torch.Tensor]
"""What the denoiser is told besides latents and timesteps: named tensors whose first dimension counts prompts."""

Predict: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]
"""A denoiser: what it says of latents (pictures, channels, height, width) at timesteps, one for all or one for each."""


class OriginalSize(NamedTuple):
    """How large a picture was before it became what is shown, and how much of it is not, in pixels.

    Attributes:
        width, height: of the original.
        left, top, right: how much was cut off there once it had been resized.
    """

    width: int
    height: int
    left: int = 0
    top: int = 0
    right: int = 0

    def mirrored(self) -> Self:
        """Of the picture that was mirrored first."""
        return self._replace(left=self.right, right=self.left)


@dataclass(frozen=True)
class LatentPosterior:
    """What an autoencoder says of pictures: a normal distribution per value, in the denoiser's scale.

    Attributes:
        mean, std: (pictures, channels, height, width), float32.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def sample(self, random: torch.Generator) -> torch.Tensor:
        """Latents of each picture, drawn anew; noise comes from the CPU, so that every device sees the same."""
        return self.mean + self.std * torch.randn(self.mean.shape, generator=random).to(self.mean.device)


OnStep: TypeAlias = Callable[[int, int], None]
"""Called with the denoising steps done and all there are to do for a picture."""


class Unsupported(Exception):
    """The base, or its family, does not do what a request asks for; the message names the field."""


class BadPicture(Exception):
    """The picture that a request starts from can't be decoded."""


class NotFinite(Exception):
    """A picture came out as numbers that are not finite."""


class Part(StrEnum):
    """The large parts of a base, each needed at other times.

    Text encoders are two of them: those that a LoRA may be put on, and those that only read, whom nobody needs while
    the others train.
    """

    AUTOENCODER = "autoencoder"
    TRAINED_ENCODERS = "trained_encoders"
    FROZEN_ENCODERS = "frozen_encoders"
    DENOISER = "denoiser"


TEXT_ENCODERS = (Part.TRAINED_ENCODERS, Part.FROZEN_ENCODERS)
"""Whoever encodes prompts to draw with, or to keep, needs both kinds."""


class Bring(Protocol):
    """Called with the parts that are at work next: these must be on the device then, and the others need not."""

    def __call__(self, *parts: Part) -> None:
        """Have them there."""
        ...


def all_there(*_parts: Part) -> None:
    """The `Bring` of a pipeline that is on its device as a whole."""


class Pipeline(Protocol):
    """A base model on a device, frozen."""

    @classmethod
    def load(cls, base: Path, device: torch.device, *, waiting: bool = False) -> Self:
        """Load a base's folder.

        Args:
            device: where it works; `precision.NOWHERE` where it is only looked at, and waiting.
            waiting: whether all parts stay in host memory until somebody brings them.

        Raises:
            BrokenBase: the folder lacks a part, or a part can't be used.
        """
        ...

    @property
    def modules(self) -> Mapping[Part, Sequence[torch.nn.Module]]:
        """What each part is made of; of text encoders there need not be both kinds.

        Who moves one away brings it back before it is needed; `draw` says when.
        """
        ...

    def encode_pictures(self, pixels: torch.Tensor) -> LatentPosterior:
        """Encode pictures (pictures, 3, height, width) in [-1, 1]; sides are multiples of 64."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts. Gradients flow where adapters on the text encoder train."""
        ...

    def encode_trained(self, prompts: Sequence[str]) -> Conditioning:
        """Those entries of `encode_prompts` that a LoRA can change, with gradients.

        Of the text encoders, `Part.TRAINED_ENCODERS` alone are asked.
        """
        ...

    def with_original_sizes(self, conditioning: Conditioning, original_sizes: Sequence[OriginalSize]) -> Conditioning:
        """Prompts and, for a denoiser that is told of it, what became of each one's picture before it is trained on."""
        ...

    def reads_whole_prompt(self, prompt: str) -> bool:
        """Whether the text encoder reads the whole prompt, rather than its beginning."""
        ...

    def draw(self, request: DrawRequest, on_step: OnStep | None = None, bring: Bring = all_there) -> Image.Image:
        """Draw with whatever adapters act at the moment; `request.loras` is left to `Adapters.activate`.

        Whatever is raised, the pipeline is as it was before.

        Args:
            on_step: called after each denoising step; what it raises ends the drawing.
            bring: called before each stage with what it needs: all text encoders, or one other part.

        Raises:
            BrokenBase: the request's autoencoder, refiner or an embedding can't be used, or is not what was registered.
            Unsupported, BadPicture, NotFinite: see there.
        """
        ...


class Noising(NamedTuple):
    """How pictures are made noisy for one step; drawn on the CPU, so that every device sees the same.

    Attributes:
        noise: (pictures, channels, height, width).
        times: (pictures,), how far each is on its way to noise, as the objective counts it: timesteps, or levels.
    """

    noise: torch.Tensor
    times: torch.Tensor


class Objective(Protocol):
    """What training makes small.

    What chance decides is apart from the loss, so that a batch that is too large for the device at once is the same
    batch in parts.
    """

    def noising(self, latents: torch.Tensor, random: torch.Generator) -> Noising:
        """Draw noise, and how much of it, for each of the latents (pictures, channels, height, width)."""
        ...

    def losses(self, latents: torch.Tensor, conditioning: Conditioning, noising: Noising) -> torch.Tensor:
        """One loss for each of the latents, shape (pictures,), float32.

        On a GPU Python carries this out twice for each shape of a batch; then a CUDA graph does the same with other
        tensors. So nothing here depends on tensors' values, is drawn by chance, is copied from or to the host, or
        changes from step to step otherwise than by the arguments, which are all on the device.
        """
        ...


class UnmatchedLora(BrokenWeights):
    """A LoRA file does not belong to this base, wholly or in part; the message names keys."""


class Adapters(Protocol):
    """LoRA on a pipeline: new ones to train, or finished ones to draw with."""

    def attach(self, settings: TrainingSettings) -> None:
        """Add an untrained LoRA to the pipeline; its values come from torch's global random source."""
        ...

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The attached LoRA's weights by their names in the diffusers file layout, always in the same order."""
        ...

    def metadata(self) -> dict[str, str]:
        """What a file of the attached LoRA must say in its header to be loaded as it was trained."""
        ...

    def kohya(self) -> dict[str, torch.Tensor]:
        """The attached LoRA's weights as kohya's trainers name and scale them, which ComfyUI reads."""
        ...

    def read(self, path: str) -> LoadedLora:
        """Read a LoRA file into host memory, and check that it fits this base, wholly; nothing acts by it.

        Raises:
            UnmatchedLora: its keys match this base not at all or only in part.
            OSError, BrokenWeights: the file can't be read, or holds numbers that are not finite.
        """
        ...

    def activate(self, loras: Sequence[tuple[LoadedLora, float]]) -> None:
        """Let exactly these LoRAs act, each with its strength (1.0 is as trained); one named twice adds its strengths.

        The base stays as it is; so this takes milliseconds, and activating none leaves no trace. If it raises, as a
        device without memory may make it, none acts.
        """
        ...


@dataclass(frozen=True)
class Family:
    """A family's three parts, loaded.

    An objective raises `BrokenBase` for a base that it can't train, and `InvalidRequest` where it can't train it as the
    settings ask.
    """

    pipeline: type[Pipeline]
    objective: Callable[[Pipeline, TrainingSettings], Objective]
    adapters: Callable[[Pipeline], Adapters]


def load_family(name: str) -> Family:
    """Load a family's parts, and torch with them.

    Raises:
        UnknownName: there is no such family.
    """
    spec = load_spec(name)
    return Family(
        pipeline=load_dotted(spec.pipeline),
        objective=load_dotted(spec.objective),
        adapters=load_dotted(spec.adapters),
    )


def as_conditioning(rows: Sequence[Mapping[str, torch.Tensor]]) -> Conditioning:
    """Join conditionings along their first dimension."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
