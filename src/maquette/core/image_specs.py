"""What a picture is asked for and what it is drawn with.

Each field's type, range and meaning stand here once, as those of trainings stand in `core.specs`; the API schema, the
manual's tables and the generated tests are derived from them. In a definition's `extra`, `published` says where it
departs from the published API, and `default` says in words what stands in for an open field, unless that is a constant.

`TextToImage` and `ImageToImage` are the published bodies. `ImageSpec` is what an image task pins: every name resolved
to the very model it means, every default filled in, and the seed drawn. Only `resolve` turns one into the other.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from maquette.core.drawing import HiresFix, Sampler
from maquette.core.errors import ErrorReason, FeatureNotAllowed, InvalidRequest, MaquetteError
from maquette.core.picture_format import PictureFormat
from maquette.core.specs import INT64_MAX, MAX_DRAWN_SEED, BaseRef, Name

MAX_PROMPT = 1024
MAX_URL = 2048
MAX_IMAGES = 8
MAX_DRAWING_STEPS = 100
MIN_IMAGE_SIDE = 128
MAX_IMAGE_SIDE = 2048
MAX_HIRES_SIDE = 4096
MAX_IMAGE_PIXELS = MAX_HIRES_SIDE * MAX_HIRES_SIDE
MAX_ADDED = 5
"""Of LoRAs, and of embeddings, in one request."""
IMAGE_SIDE_MULTIPLE = 8
"""Pixels that one latent stands for."""
DRAWN_ANEW = -1
"""The seed that asks for one to be drawn."""
DEFAULT_ORIGINAL_STRENGTH = 0.75
NOT_SUPPORTED = "is not supported by this server; leave it out"
REFUSED = "refused"


class ImageKind(StrEnum):
    """What a picture is drawn from, by the published task types."""

    TEXT = "TXT_TO_IMG"
    IMAGE = "IMG_TO_IMG"


class Upscaler(StrEnum):
    """How `hires_fix` enlarges, by the published name."""

    LATENT = "Latent"


class MockStatus(StrEnum):
    """The end that a webhook's test mode asks for."""

    SUCCEED = "TASK_STATUS_SUCCEED"
    FAILED = "TASK_STATUS_FAILED"


# ------------------------------------------------------------------------------------------------- the field `extra`


class WebhookTest(Struct, frozen=True, kw_only=True):
    """The field `test_mode` of a webhook."""

    enabled: Annotated[bool, Meta(description="Draw nothing; end at once, and tell the webhook of that.")]
    return_task_status: Annotated[MockStatus, Meta(description="How the test ends. It has no pictures.")] = (
        MockStatus.SUCCEED
    )


class Webhook(Struct, frozen=True, kw_only=True):
    """Whom to tell when the task has ended."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_URL,
            description="An http or https address; gets the result by POST, as `ASYNC_TASK_RESULT`.",
            extra={"published": "limited: no length is published"},
        ),
    ]
    test_mode: Annotated[WebhookTest | UnsetType, Meta(description="Try the webhook out.")] = UNSET


class AwsS3(Struct, frozen=True, kw_only=True):
    """The field `aws_s3` of `custom_storage`: a place in a bucket of the caller's."""

    region: Annotated[str, Meta(min_length=1, max_length=64, description="The bucket's region.")]
    bucket: Annotated[str, Meta(min_length=1, max_length=255, description="The bucket; one that the operator opened.")]
    path: Annotated[
        str,
        Meta(
            max_length=512,
            description="A folder in it.",
            extra={"published": "extended: need not be given", "default": "the bucket itself"},
        ),
    ] = ""
    save_to_path_directly: Annotated[
        bool, Meta(description="Put the pictures into the folder itself, not into one of the task's own in it.")
    ] = False


class CustomStorage(Struct, frozen=True, kw_only=True):
    """Where else to store the pictures."""

    aws_s3: Annotated[
        AwsS3 | UnsetType,
        Meta(
            description="A bucket of the caller's.",
            extra={
                "published": f"limited: {REFUSED} with `FEATURE_NOT_ALLOWED` where the operator has opened no bucket"
                " (`MAQUETTE_CUSTOM_STORAGE`)"
            },
        ),
    ] = UNSET


class EnterprisePlan(Struct, frozen=True, kw_only=True):
    """The hosted service's plan."""

    enabled: Annotated[
        bool,
        Meta(
            description="Draw on devices of the caller's own.",
            extra={"published": f"{REFUSED} with `FEATURE_NOT_ALLOWED` if true: there are no plans here"},
        ),
    ] = False


class ImageExtra(Struct, frozen=True, kw_only=True):
    """The published field `extra`: what becomes of the pictures."""

    response_image_type: Annotated[PictureFormat, Meta(description="Format of the pictures' files.")] = (
        PictureFormat.PNG
    )
    webhook: Annotated[Webhook | UnsetType, Meta(description="Whom to tell when the task has ended.")] = UNSET
    custom_storage: Annotated[CustomStorage | UnsetType, Meta(description="Where else to store the pictures.")] = UNSET
    enterprise_plan: Annotated[EnterprisePlan | UnsetType, Meta(description="The hosted service's plan.")] = UNSET
    enable_nsfw_detection: Annotated[
        bool,
        Meta(
            description="Judge the pictures.",
            extra={"published": f"{REFUSED} if true: there is no detector here"},
        ),
    ] = False
    nsfw_detection_level: Annotated[int, Meta(ge=0, le=2, description="How strict to judge them; no effect.")] = 0


# ----------------------------------------------------------------------------------------------- the field `request`

Prompt = Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT)]
Share = Annotated[float, Meta(ge=0, le=1)]
Side = Annotated[
    int,
    Meta(
        ge=MIN_IMAGE_SIDE,
        le=MAX_IMAGE_SIDE,
        description=f"Pixels; rounded down to a multiple of {IMAGE_SIDE_MULTIPLE}.",
        extra={"published": "extended: need not be given"},
    ),
]
HiresSide = Annotated[
    int,
    Meta(
        ge=MIN_IMAGE_SIDE,
        le=MAX_HIRES_SIDE,
        description=f"Pixels of the second pass; rounded down to a multiple of {IMAGE_SIDE_MULTIPLE}.",
        extra={"published": "same; `MAQUETTE_MAX_IMAGE_PIXELS` may lower the most"},
    ),
]


class LoraChoice(Struct, frozen=True, kw_only=True):
    """One entry of `loras`."""

    model_name: Annotated[Name, Meta(description="A trained LoRA of the caller's, with or without `.safetensors`.")]
    strength: Annotated[Share, Meta(description="How strongly it acts; 1 is as trained.")] = 1.0


class EmbeddingChoice(Struct, frozen=True, kw_only=True):
    """One entry of `embeddings`."""

    model_name: Annotated[
        Name,
        Meta(
            description="A textual inversion of this server; its name without extension is the word for it in prompts."
        ),
    ]


class HiresFixChoice(Struct, frozen=True, kw_only=True):
    """The field `hires_fix`: a second, larger pass."""

    target_width: HiresSide
    target_height: HiresSide
    strength: Annotated[Share, Meta(description="How much of the enlarged picture is drawn anew.")]
    upscaler: Annotated[
        Upscaler,
        Meta(
            description="What enlarges the first pass.",
            extra={"published": "limited: `RealESRGAN_x4plus_anime_6B` and `RealESRNet_x4plus` are refused"},
        ),
    ] = Upscaler.LATENT


class RefinerChoice(Struct, frozen=True, kw_only=True):
    """The field `refiner`: the registered refiner of the checkpoint's family takes over."""

    switch_at: Annotated[Share, Meta(description="After this share of the steps.")]


class ControlNet(Struct, frozen=True, kw_only=True):
    """The field `controlnet`."""

    units: Annotated[
        list[dict[str, Any]],
        Meta(
            description="Pictures that steer the drawing.",
            extra={"published": f"{REFUSED} unless empty"},
        ),
    ] = []


class Drawing(Struct, frozen=True, kw_only=True):
    """What both calls' `request` have in common."""

    model_name: Annotated[
        Name, Meta(description="A checkpoint of this server, by any of its names, with or without extension.")
    ]
    prompt: Annotated[
        Prompt,
        Meta(
            description="What to draw. May hold weights, as in `(blue:1.2)`, be longer than 77 tokens, and have"
            " sections with `BREAK` between them, each of which is read by itself."
        ),
    ]
    negative_prompt: Annotated[
        Prompt | UnsetType, Meta(description="What to move away from.", extra={"default": "nothing"})
    ] = UNSET
    width: Side = 512
    height: Side = 512
    image_num: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_IMAGES,
            description="Pictures; each has the seed of the one before it plus 1.",
            extra={"published": "extended: need not be given; `MAQUETTE_MAX_IMAGE_NUM` may lower the most"},
        ),
    ] = 1
    steps: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_DRAWING_STEPS,
            description="Denoising steps.",
            extra={"published": "extended: need not be given; `MAQUETTE_MAX_IMAGE_STEPS` may lower the most"},
        ),
    ] = 20
    guidance_scale: Annotated[
        float,
        Meta(
            ge=1,
            le=30,
            description="How closely to follow the prompts; 1 is without the negative one.",
            extra={"published": "extended: need not be given"},
        ),
    ] = 7.5
    sampler_name: Annotated[
        Sampler,
        Meta(
            description="The sampler.",
            extra={"published": "extended: need not be given; limited: `DPM fast` and `DPM adaptive` are refused"},
        ),
    ] = Sampler.EULER_A
    seed: Annotated[
        int,
        Meta(
            ge=DRAWN_ANEW,
            le=INT64_MAX,
            description=f"Of the first picture; {DRAWN_ANEW} draws one, up to {MAX_DRAWN_SEED}; the result tells it.",
        ),
    ] = DRAWN_ANEW
    sd_vae: Annotated[
        Name | UnsetType,
        Meta(description="An autoencoder of this server.", extra={"default": "the checkpoint's own"}),
    ] = UNSET
    clip_skip: Annotated[
        int, Meta(ge=1, le=12, description="Layers of the text encoder to stop before the end; 1 leaves out none.")
    ] = 1
    loras: Annotated[list[LoraChoice], Meta(max_length=MAX_ADDED, description="LoRAs to add.")] = []
    embeddings: Annotated[list[EmbeddingChoice], Meta(max_length=MAX_ADDED, description="Words to add.")] = []
    restore_faces: Annotated[bool, Meta(description="Restore faces.", extra={"published": f"{REFUSED} if true"})] = (
        False
    )
    enable_transparent_background: Annotated[
        bool, Meta(description="Leave the background out.", extra={"published": f"{REFUSED} if true"})
    ] = False
    controlnet: Annotated[ControlNet | UnsetType, Meta(description="Pictures that steer the drawing.")] = UNSET
    ip_adapters: Annotated[
        list[dict[str, Any]],
        Meta(description="Pictures that serve as prompts.", extra={"published": f"{REFUSED} unless empty"}),
    ] = []


class TextToImage(Drawing, frozen=True, kw_only=True):
    """The field `request` of `POST /v3/async/txt2img`."""

    hires_fix: Annotated[HiresFixChoice | UnsetType, Meta(description="A second, larger pass.")] = UNSET
    refiner: Annotated[RefinerChoice | UnsetType, Meta(description="Another checkpoint for the last steps.")] = UNSET


class ImageToImage(Drawing, frozen=True, kw_only=True):
    """The field `request` of `POST /v3/async/img2img`."""

    image_base64: Annotated[
        str,
        Meta(
            description="The picture to start from: a JPEG, PNG or WebP in Base64, with or without a `data:` prefix, of"
            " at most `MAQUETTE_MAX_ORIGINAL_BYTES` and `MAQUETTE_MAX_ORIGINAL_PIXELS`; brought to width and height."
        ),
    ]
    strength: Annotated[Share, Meta(description="How much of it is drawn anew.")] = DEFAULT_ORIGINAL_STRENGTH


class TextToImageBody(Struct, frozen=True, kw_only=True):
    """The published body of `POST /v3/async/txt2img`."""

    request: Annotated[TextToImage, Meta(description="What to draw.")]
    extra: Annotated[ImageExtra, Meta(description="What becomes of the pictures.")] = ImageExtra()


class ImageToImageBody(Struct, frozen=True, kw_only=True):
    """The published body of `POST /v3/async/img2img`."""

    request: Annotated[ImageToImage, Meta(description="What to draw.")]
    extra: Annotated[ImageExtra, Meta(description="What becomes of the picture.")] = ImageExtra()


ImageBody: TypeAlias = TextToImageBody | ImageToImageBody

# -------------------------------------------------------------------------------------------- what a task is drawn with


class LoraRef(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A trained LoRA as a task pins it: its model's id and name, its object, the hash of its bytes, its strength."""

    model_id: str
    name: str
    object_key: str
    sha256: str
    strength: float


class EmbeddingRef(Struct, frozen=True, forbid_unknown_fields=True):
    """A textual inversion, and the word in prompts that stands for it."""

    base: BaseRef
    word: str


class RefinerRef(Struct, frozen=True, forbid_unknown_fields=True):
    """The refiner that takes over after the share `switch_at` of the steps."""

    base: BaseRef
    switch_at: float


class CopyTarget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where in a caller's bucket pictures are copied: into the folder itself, or into one of the task's own in it."""

    region: str
    bucket: str
    folder: str
    directly: bool


class ImageSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides a task's pictures, besides the picture to start from and the software's versions; and
    where they go.

    Bases, autoencoders, embeddings and refiners are pinned by name and hash; where they lie is looked up when they are
    used, and another one under the same name is refused then.

    Attributes:
        seed: of the first picture; each other's is one more.
        original_strength: how much of the picture to start from is drawn anew; None starts from noise.
        format: of the pictures' files.
        copy_to: where they are put besides being stored here.
        departures: in words for the task's owner where this differs from what was asked for; decides nothing.
    """

    base: BaseRef
    prompt: str
    negative_prompt: str
    width: int
    height: int
    image_num: int
    steps: int
    guidance_scale: float
    sampler: Sampler
    seed: int
    clip_skip: int
    vae: BaseRef | None = None
    loras: tuple[LoraRef, ...] = ()
    embeddings: tuple[EmbeddingRef, ...] = ()
    hires_fix: HiresFix | None = None
    refiner: RefinerRef | None = None
    original_strength: float | None = None
    format: PictureFormat = PictureFormat.PNG
    copy_to: CopyTarget | None = None
    departures: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Each picture's seed."""
        return tuple(range(self.seed, self.seed + self.image_num))

    @property
    def total_steps(self) -> int:
        """Denoising steps of all pictures, as far as they are known beforehand."""
        return self.steps * self.image_num


class NamedModels(Struct, frozen=True, kw_only=True):
    """What the names in a request mean: the very models they stand for at this moment."""

    base: BaseRef
    vae: BaseRef | None = None
    loras: tuple[LoraRef, ...] = ()
    embeddings: tuple[EmbeddingRef, ...] = ()
    refiner: BaseRef | None = None


class ImageLimits(Struct, frozen=True, kw_only=True):
    """What this server's operator allows at most, within what is published.

    Attributes:
        pixels: of one picture, width times height; of the second pass where there is one.
        steps: denoising steps of one picture.
        images: pictures of one task.
    """

    pixels: int = MAX_IMAGE_PIXELS
    steps: int = MAX_DRAWING_STEPS
    images: int = MAX_IMAGES


def refuse_unsupported(body: ImageBody) -> None:
    """Hold a body to what this software can do at all.

    `FEATURE_NOT_ALLOWED` is for what the published API opens to some accounts only; what nobody can have here breaks
    the rule of its field.

    Raises:
        InvalidRequest, FeatureNotAllowed: the message names the field.
    """
    request, extra = body.request, body.extra
    if extra.enterprise_plan and extra.enterprise_plan.enabled:
        raise FeatureNotAllowed("extra.enterprise_plan.enabled", NOT_SUPPORTED)
    asked = {
        "extra.enable_nsfw_detection": extra.enable_nsfw_detection,
        "request.restore_faces": request.restore_faces,
        "request.enable_transparent_background": request.enable_transparent_background,
        "request.controlnet": bool(request.controlnet and request.controlnet.units),
        "request.ip_adapters": bool(request.ip_adapters),
    }
    for field, wanted in asked.items():
        if wanted:
            raise InvalidRequest(field, NOT_SUPPORTED)


def refuse_beyond(body: ImageBody, limits: ImageLimits) -> None:
    """Hold a body to what the operator allows.

    Raises:
        InvalidRequest: the message names the field and the most.
        MaquetteError: INVALID_IMAGE_SIZE, likewise, for a picture of too many pixels.
    """
    request = body.request
    for field, value, most in (
        ("steps", request.steps, limits.steps),
        ("image_num", request.image_num, limits.images),
    ):
        if value > most:
            raise InvalidRequest(f"request.{field}", f"must be between 1 and {most} on this server, got {value}")
    sides = {"width": (request.width, request.height)}
    if isinstance(request, TextToImage) and request.hires_fix:
        sides["hires_fix.target_width"] = (request.hires_fix.target_width, request.hires_fix.target_height)
    for field, (width, height) in sides.items():
        if width * height > limits.pixels:
            raise MaquetteError(
                ErrorReason.INVALID_IMAGE_SIZE,
                f"request.{field}: a picture has at most {limits.pixels} pixels on this server, got {width}x{height}",
            )


def resolve(
    body: ImageBody, models: NamedModels, *, draw_seed: Callable[[], int], copy_to: CopyTarget | None = None
) -> ImageSpec:
    """Fill in every default of a body and draw its seed."""
    request = body.request
    return ImageSpec(
        base=models.base,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or "",
        width=_side(request.width),
        height=_side(request.height),
        image_num=request.image_num,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler_name,
        seed=draw_seed() if request.seed == DRAWN_ANEW else request.seed,
        clip_skip=request.clip_skip,
        vae=models.vae,
        loras=models.loras,
        embeddings=models.embeddings,
        hires_fix=_hires_fix(request),
        refiner=_refiner(request, models.refiner),
        original_strength=request.strength if isinstance(request, ImageToImage) else None,
        format=body.extra.response_image_type,
        copy_to=copy_to,
    )


def _hires_fix(request: Drawing) -> HiresFix | None:
    if not isinstance(request, TextToImage) or not request.hires_fix:
        return None
    chosen = request.hires_fix
    return HiresFix(_side(chosen.target_width), _side(chosen.target_height), chosen.strength)


def _refiner(request: Drawing, base: BaseRef | None) -> RefinerRef | None:
    if not isinstance(request, TextToImage) or not request.refiner or base is None:
        return None
    return RefinerRef(base, request.refiner.switch_at)


def _side(pixels: int) -> int:
    """Round down to whole latents."""
    return pixels // IMAGE_SIDE_MULTIPLE * IMAGE_SIDE_MULTIPLE
