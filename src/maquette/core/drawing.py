"""What an inference worker is asked to draw, and everything that server and worker say to each other.

The wire form is MessagePack, one map a message, each behind its length (four bytes, big-endian). A message's `type`
names it. `tests/golden/inference/` pins the form: a worker and a server of different versions must understand each
other or refuse at the first message, `Ready`.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec
from msgspec import Struct

from maquette.core.picture_format import PictureFormat
from maquette.core.specs import SampleSpec

PROTOCOL = 3
"""Raised with every change of the wire form; a worker that speaks another is not used."""
LENGTH_BYTES = 4
MAX_MESSAGE = 256 * 1024 * 1024
"""Bytes of one message; eight large pictures fit, a broken length does not."""


class Sampler(StrEnum):
    """Samplers by their published names."""

    EULER_A = "Euler a"
    EULER = "Euler"
    LMS = "LMS"
    HEUN = "Heun"
    DPM2 = "DPM2"
    DPM2_A = "DPM2 a"
    DPMPP_2S_A = "DPM++ 2S a"
    DPMPP_2M = "DPM++ 2M"
    DPMPP_SDE = "DPM++ SDE"
    LMS_KARRAS = "LMS Karras"
    DPM2_KARRAS = "DPM2 Karras"
    DPM2_A_KARRAS = "DPM2 a Karras"
    DPMPP_2S_A_KARRAS = "DPM++ 2S a Karras"
    DPMPP_2M_KARRAS = "DPM++ 2M Karras"
    DPMPP_SDE_KARRAS = "DPM++ SDE Karras"
    DDIM = "DDIM"
    PLMS = "PLMS"
    UNIPC = "UniPC"


class BaseUse(Struct, frozen=True, forbid_unknown_fields=True):
    """A registered model's folder, and the hash (hex SHA-256) it was registered with.

    A worker that holds a model goes by both, and loads none whose hash is another: an operator may put another one in
    the same place.
    """

    path: str
    sha256: str


class LoraUse(Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA file and how strongly it acts (1.0 is as trained)."""

    path: str
    strength: float = 1.0


class EmbeddingUse(Struct, frozen=True, forbid_unknown_fields=True):
    """A textual inversion: its file and the hash it was registered with, and the word in prompts that stands for it."""

    path: str
    sha256: str
    word: str


class HiresFix(Struct, frozen=True, forbid_unknown_fields=True):
    """A second pass: the latents are enlarged to width and height (pixels) and drawn anew from `strength` (0..1) on."""

    width: int
    height: int
    strength: float


class RefinerUse(Struct, frozen=True, forbid_unknown_fields=True):
    """A base that takes over after the share `switch_at` (0..1) of the steps."""

    base: BaseUse
    switch_at: float


class Original(Struct, frozen=True, forbid_unknown_fields=True):
    """The picture to start from, as a file's bytes, and how much of it is drawn anew (0..1)."""

    picture: bytes
    strength: float


class DrawRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One picture to draw.

    Attributes:
        prompt, negative_prompt: what to draw, and what to move away from; both may be longer than the text encoder
            reads at once, and hold weights such as `(blue:1.2)`.
        width, height: pixels.
        steps: denoising steps.
        guidance_scale: classifier-free guidance (Ho & Salimans 2022), 1 is none.
        seed: of the initial noise.
        sampler: None is the base's own.
        clip_skip: text encoder layers left out at the end, counted as published: 1 leaves out none.
        loras: added to the base for this picture alone.
        embeddings: further words that the prompts may use.
        vae: an autoencoder in place of the base's own.
        hires_fix, refiner, original: see there.
    """

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    sampler: Sampler | None = None
    clip_skip: int = 1
    loras: tuple[LoraUse, ...] = ()
    embeddings: tuple[EmbeddingUse, ...] = ()
    vae: BaseUse | None = None
    hires_fix: HiresFix | None = None
    refiner: RefinerUse | None = None
    original: Original | None = None


def sample_request(sample: SampleSpec) -> DrawRequest:
    """What a trainer's sample is drawn by, and its replay: with the base's own sampler."""
    return DrawRequest(
        prompt=sample.prompt,
        width=sample.width,
        height=sample.height,
        steps=sample.steps,
        guidance_scale=sample.guidance_scale,
        seed=sample.seed,
    )


# ------------------------------------------------------------------------------------------------ server to worker


class Draw(Struct, frozen=True, tag="draw", kw_only=True):
    """Draw one picture with a base; answered by `Progress`, then `Drawn` or `Refused`."""

    number: int
    base: BaseUse
    request: DrawRequest
    format: PictureFormat


class Compare(Struct, frozen=True, tag="compare", kw_only=True):
    """Draw `request` with its LoRAs and without; answered by `Progress`, then `Compared` or `Refused`.

    `sample` is what the trainer drew from the same request, a PNG file's bytes.
    """

    number: int
    base: BaseUse
    request: DrawRequest
    sample: bytes


ToWorker: TypeAlias = Draw | Compare

# ------------------------------------------------------------------------------------------------ worker to server


class Refusal(StrEnum):
    """Why a request was not carried out."""

    UNMATCHED_LORA = "unmatched_lora"
    """A LoRA's keys match the base not at all or only in part."""
    BROKEN_LORA = "broken_lora"
    """A LoRA's file can't be read, or holds numbers that are not finite."""
    BROKEN_BASE = "broken_base"
    """The base, or an autoencoder, embedding or refiner, can't be loaded."""
    UNSUPPORTED = "unsupported"
    """The base's family does not do what was asked for."""
    BAD_PICTURE = "bad_picture"
    """The picture to start from can't be decoded."""
    NOT_FINITE = "not_finite"
    """The picture came out as numbers that are not finite."""
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL = "internal"


class Difference(Struct, frozen=True):
    """How far two pictures are apart: mean and largest difference of their 8-bit channel values, 0..255."""

    mean: float
    largest: int


class LoadedBase(Struct, frozen=True):
    """A base in a worker's memory, and the paths of the LoRA files that were read for it."""

    base: BaseUse
    loras: tuple[str, ...]


class Loaded(Struct, frozen=True):
    """What a worker holds, so that the next request can be chosen by it.

    Attributes:
        bases: the one used last is the last.
        room: whether it can load another without letting one go.
    """

    bases: tuple[LoadedBase, ...]
    room: bool


NOTHING_LOADED = Loaded(bases=(), room=True)
"""What a worker holds at first."""


class Ready(Struct, frozen=True, tag="ready", kw_only=True):
    """The worker's first message, once it can draw.

    Attributes:
        protocol: `PROTOCOL` as the worker knows it.
        device: its kind, such as `cpu` or `cuda NVIDIA H200`.
        versions: of the libraries that draw. A model's verdict holds for these and for the device.
    """

    protocol: int
    device: str
    versions: dict[str, str]


class Progress(Struct, frozen=True, tag="progress"):
    """Request `number` has done `step` of `steps` denoising steps."""

    number: int
    step: int
    steps: int


class Drawn(Struct, frozen=True, tag="drawn", kw_only=True):
    """The picture, a file's bytes."""

    number: int
    picture: bytes
    loaded: Loaded


class Compared(Struct, frozen=True, tag="compared", kw_only=True):
    """How far the worker's picture with the LoRAs is from the trainer's sample, and from its own without them."""

    number: int
    from_sample: Difference
    from_base: Difference
    loaded: Loaded


class Refused(Struct, frozen=True, tag="refused", kw_only=True):
    """Request `number` was not carried out.

    Attributes:
        clean: whether the worker may go on; one that says no ends by itself.
    """

    number: int
    reason: Refusal
    message: str
    clean: bool
    loaded: Loaded


FromWorker: TypeAlias = Ready | Progress | Drawn | Compared | Refused

Message: TypeAlias = ToWorker | FromWorker

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class BrokenMessage(Exception):
    """Bytes that are no message of this protocol."""


def pack(message: Message) -> bytes:
    """A message's wire form, length and all."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def body_length(head: bytes) -> int:
    """How many bytes follow a message's length.

    Raises:
        BrokenMessage: more than any message has.
    """
    length = int.from_bytes(head, "big")
    if length > MAX_MESSAGE:
        raise BrokenMessage(f"a message of {length} bytes; the most is {MAX_MESSAGE}")
    return length


def unpack(body: bytes) -> Message:
    """The message whose wire form, after its length, this is.

    Raises:
        BrokenMessage: it is none.
    """
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenMessage(str(error)) from error
