"""What a training task is asked for and what it runs with.

Each field's type, range, label and meaning stand here once. The API schema, the manual's tables, the command line's
options and the generated tests are derived from these definitions. In a definition's `extra`, `published` says where
it departs from the published API, and `default` says in words what stands in where a field is left open, unless that
is a constant.

`TrainingRequest` is the published body, lenient and sparse. `TrainingSpec` is what a task pins: every default
filled in and the seed drawn. Only `resolve` turns one into the other.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from maquette.core.captions import class_noun, with_phrase
from maquette.core.errors import InvalidRequest
from maquette.core.requirements import read

MAX_PICTURES = 50
MAX_CAPTION = 1024
MAX_TRIGGER = 64
SIDE_MULTIPLE = 64
MAX_SIDE = 2048
MAX_NAME = 255
INT64_MAX = 2**63 - 1
FLOAT32_MAX = 3.4e38
"""Losses are float32: a larger factor would be infinite."""
MAX_DRAWN_SEED = 2**32 - 1
"""Of the seeds we draw: every JSON reader keeps all their digits."""
DEFAULT_STEPS_PER_PICTURE = 200
DEFAULT_MAX_STEPS = 2000


class TaskType(StrEnum):
    """What a training is for; also the last part of the published create path."""

    SUBJECT = "subject"
    STYLE = "style"


class LrScheduler(StrEnum):
    """Learning-rate schedules, by the names of diffusers' `get_scheduler`."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"


LR_CYCLES = 3
"""How often `cosine_with_restarts` falls from the peak; once would be `cosine`."""


class Optimizer(StrEnum):
    """What turns gradients into steps."""

    ADAMW = "adamw"
    PRODIGY = "prodigy"


TRIGGER = "ohwx"
"""A word that hardly any base knows, as DreamBooth needs one (Ruiz et al. 2023, arXiv:2208.12242, section 3.2)."""
PHRASES = {TaskType.SUBJECT: "{trigger} {noun}", TaskType.STYLE: "{trigger} style"}
"""How captions call what is learned; the noun is that of the class prompt."""
INSTANCE_PROMPTS = {TaskType.SUBJECT: "a photo of {phrase}", TaskType.STYLE: "a picture in {phrase}"}
CLASS_PROMPTS = {TaskType.SUBJECT: "person", TaskType.STYLE: "a picture"}
RANDOM_FLIPS = {TaskType.SUBJECT: False, TaskType.STYLE: True}
"""A style stays the same in a mirror; people and things, and words on them, do not."""
LENGTH_NOT_PUBLISHED = "limited: no length is published"
RANGE_NOT_PUBLISHED = "limited: no range is published"
OURS = "ours"


def _phrase(task_type: TaskType, trigger: str, class_prompt: str) -> str:
    return PHRASES[task_type].format(trigger=trigger, noun=class_noun(class_prompt))


def _default_instance_prompt(task_type: TaskType, phrase: str) -> str:
    # Class prompts may be long already; text encoders read far less than this.
    return INSTANCE_PROMPTS[task_type].format(phrase=phrase)[:MAX_CAPTION]


def _for_each_type(words: Mapping[TaskType, str]) -> str:
    return ", ".join(f"`{word}` ({task_type})" for task_type, word in words.items())


USUAL_INSTANCE_PROMPTS = {
    task_type: _default_instance_prompt(task_type, _phrase(task_type, TRIGGER, CLASS_PROMPTS[task_type]))
    for task_type in TaskType
}
"""Where neither trigger word nor class prompt is given."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
TaskName = Annotated[
    Name, Meta(description="What to call the task; need not be unique.", extra={"published": LENGTH_NOT_PUBLISHED})
]
BaseName = Annotated[
    Name,
    Meta(description="A base model of this server, `maquette bases list`.", extra={"published": "same"}),
]

BatchSize = Annotated[int, Meta(ge=1, le=4, title="Batch size", description="Pictures per optimiser step.")]
LearningRate = Annotated[
    float,
    Meta(
        gt=0,
        le=1e-2,
        title="Learning rate",
        description="Peak learning rate of AdamW for all LoRA weights; `prodigy` finds its own.",
        extra={"published": "extended: 1e-4, 1e-5, 1e-6, 2e-4 and 5e-5 are listed"},
    ),
]
MaxTrainSteps = Annotated[
    int,
    Meta(
        ge=1,
        le=10_000,
        title="Training steps",
        description="Optimiser steps in total, over all pictures.",
        extra={
            "published": "limited: no most is published; `MAQUETTE_MAX_TRAIN_STEPS` may lower it further",
            "default": f"{DEFAULT_STEPS_PER_PICTURE} for each picture, {DEFAULT_MAX_STEPS} at most",
        },
    ),
]
Seed = Annotated[
    int,
    Meta(
        ge=1,
        le=INT64_MAX,
        title="Seed",
        description="Seeds every random source.",
        extra={"default": f"drawn, up to {MAX_DRAWN_SEED}, and recorded"},
    ),
]
Schedule = Annotated[
    LrScheduler,
    Meta(
        title="Learning-rate schedule",
        description="How the rate goes from its peak to the end of training;"
        f" `cosine_with_restarts` falls from it {LR_CYCLES} times.",
    ),
]
Warmup = Annotated[
    int,
    Meta(
        ge=0,
        le=INT64_MAX,
        title="Warm-up steps",
        description="Steps over which the rate rises to its peak: less than `max_train_steps`. No effect, and no"
        " further limit, with `constant`.",
        extra={"published": "limited: no most is published"},
    ),
]
OptimizerName = Annotated[
    Optimizer,
    Meta(
        title="Optimiser",
        description="What turns gradients into steps; `prodigy` finds the peak learning rate by itself.",
        extra={"published": OURS},
    ),
]
CheckpointSamples = Annotated[
    bool,
    Meta(
        title="Checkpoint samples",
        description="Draw the instance prompt and the class prompt with every checkpoint, from one seed.",
        extra={"published": OURS, "default": "`false`"},
    ),
]
InstancePrompt = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CAPTION,
        title="Instance prompt",
        description="Caption of pictures that have none of their own, with the trigger word in it.",
        extra={"published": LENGTH_NOT_PUBLISHED, "default": _for_each_type(USUAL_INSTANCE_PROMPTS)},
    ),
]
ClassPrompt = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CAPTION,
        title="Class prompt",
        description="Caption of the generated class pictures that preserve what the base knew.",
        extra={"published": "extended: only `person` is listed", "default": _for_each_type(CLASS_PROMPTS)},
    ),
]
PriorPreservation = Annotated[
    bool, Meta(title="Prior preservation", description="Train on generated class pictures as well.")
]
PriorLossWeight = Annotated[
    float, Meta(gt=0, le=FLOAT32_MAX, title="Prior loss weight", description="Weight of the class pictures' loss.")
]
TrainTextEncoder = Annotated[
    bool,
    Meta(
        title="Train text encoder",
        description="Put a LoRA on the text encoders as well, as far as the base's family can have one there.",
    ),
]
LoraRank = Annotated[int, Meta(ge=4, le=128, title="LoRA rank", description="Rank of the denoiser's LoRA matrices.")]
LoraAlpha = Annotated[
    int,
    Meta(
        ge=4,
        le=128,
        title="LoRA alpha",
        description="The denoiser's LoRA is scaled by alpha / rank.",
        extra={"default": "`lora_r`"},
    ),
]
TextEncoderRank = Annotated[
    int,
    Meta(
        ge=4,
        le=128,
        title="Text-encoder LoRA rank",
        description="Rank of the text encoder's LoRA matrices.",
        extra={"default": "`lora_r`"},
    ),
]
TextEncoderAlpha = Annotated[
    int,
    Meta(
        ge=4,
        le=128,
        title="Text-encoder LoRA alpha",
        description="The text encoder's LoRA is scaled by alpha / rank.",
        extra={"default": "`lora_text_encoder_r`"},
    ),
]
Side = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_SIDE,
        description=f"Pixels that pictures are cropped and resized to; rounded down to a multiple of {SIDE_MULTIPLE},"
        f" {SIDE_MULTIPLE} at least.",
        extra={"published": "limited: no most is published"},
    ),
]
Color = Annotated[str, Meta(pattern=r"^#[0-9a-fA-F]{6}$")]
WHITE = "#ffffff"
ResizedSide = Annotated[Side, Meta(extra={"default": "that of the request"})]
Caption = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CAPTION,
        description="What this picture shows.",
        extra={"default": "`instance_prompt`"},
    ),
]
TriggerWord = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TRIGGER,
        title="Trigger word",
        description="Goes in front of captions that lack it, for a subject with what `class_prompt` names, and into"
        " the default `instance_prompt`.",
        extra={"published": OURS, "default": f"none; the default `instance_prompt` says `{TRIGGER}`"},
    ),
]
CaptionDropout = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        title="Caption dropout",
        description="Share of the times a picture is shown without its caption, so that drawing can be guided.",
        extra={"published": OURS},
    ),
]
HeldOut = Annotated[
    bool,
    Meta(
        description="Keep this picture out of training, and measure the loss on it at every checkpoint.",
        extra={"published": OURS},
    ),
]
ShuffleTags = Annotated[
    bool,
    Meta(
        title="Shuffle tags",
        description="Show captions with what stands between their commas in other orders, the first tag in front: in"
        " four for each picture, or in a new one each time where all text encoders are trained.",
        extra={"published": OURS},
    ),
]
RandomFlip = Annotated[
    bool,
    Meta(
        title="Random flip",
        description="Show every other picture mirrored; a mirrored face is another face.",
        extra={
            "published": OURS,
            "default": _for_each_type({task_type: str(flip).lower() for task_type, flip in RANDOM_FLIPS.items()}),
        },
    ),
]

SnrGamma = Annotated[
    float,
    Meta(
        ge=0,
        le=100,
        title="Min-SNR gamma",
        description="Bounds a timestep's weight by its signal-to-noise ratio (min-SNR); 5 is usual, 0 weighs all alike."
        " Bases of rectified flow have no use for it.",
        extra={"published": OURS},
    ),
]
NoiseOffset = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        title="Noise offset",
        description="Deviation of what is added to the noise of each whole channel, so that pictures learn to become"
        " darker or lighter; 0.05 is usual, 0 adds nothing. Bases of rectified flow have no use for it.",
        extra={"published": OURS},
    ),
]
ZeroTerminalSnr = Annotated[
    bool,
    Meta(
        title="Zero terminal SNR",
        description="Train down to noise that holds nothing of the picture, and draw from there, so that pictures may"
        " become darker and lighter as a whole. Not together with `snr_gamma`, which weighs that noise by nothing."
        " Bases of rectified flow have no use for it; with one that predicts noise instead of velocities the training"
        " fails before its first step.",
        extra={"published": OURS},
    ),
]
DIFFUSION_SETTINGS = ("snr_gamma", "noise_offset", "zero_terminal_snr")
"""Settings of what diffusion makes small; a family of another kind has no use for them."""


class ExpertSetting(Struct, frozen=True, omit_defaults=True):
    """The fifteen published `expert_setting` fields and some of ours, all optional."""

    train_batch_size: BatchSize | UnsetType = UNSET
    learning_rate: LearningRate | UnsetType = UNSET
    max_train_steps: MaxTrainSteps | UnsetType = UNSET
    seed: Seed | UnsetType = UNSET
    lr_scheduler: Schedule | UnsetType = UNSET
    lr_warmup_steps: Warmup | UnsetType = UNSET
    instance_prompt: InstancePrompt | UnsetType = UNSET
    class_prompt: ClassPrompt | UnsetType = UNSET
    with_prior_preservation: PriorPreservation | UnsetType = UNSET
    prior_loss_weight: PriorLossWeight | UnsetType = UNSET
    train_text_encoder: TrainTextEncoder | UnsetType = UNSET
    lora_r: LoraRank | UnsetType = UNSET
    lora_alpha: LoraAlpha | UnsetType = UNSET
    lora_text_encoder_r: TextEncoderRank | UnsetType = UNSET
    lora_text_encoder_alpha: TextEncoderAlpha | UnsetType = UNSET
    trigger_word: TriggerWord | UnsetType = UNSET
    caption_dropout: CaptionDropout | UnsetType = UNSET
    shuffle_tags: ShuffleTags | UnsetType = UNSET
    random_flip: RandomFlip | UnsetType = UNSET
    optimizer: OptimizerName | UnsetType = UNSET
    checkpoint_samples: CheckpointSamples | UnsetType = UNSET
    snr_gamma: SnrGamma | UnsetType = UNSET
    noise_offset: NoiseOffset | UnsetType = UNSET
    zero_terminal_snr: ZeroTerminalSnr | UnsetType = UNSET


class TrainingSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`ExpertSetting` with every default filled in: what a run really uses.

    The trigger word has gone into captions and prompts, and `checkpoint_samples` into the spec's samples. What has a
    default here is missing in specs of older servers.
    """

    train_batch_size: BatchSize
    learning_rate: LearningRate
    max_train_steps: MaxTrainSteps
    seed: Seed
    lr_scheduler: Schedule
    lr_warmup_steps: Warmup
    instance_prompt: InstancePrompt
    class_prompt: ClassPrompt
    with_prior_preservation: PriorPreservation
    prior_loss_weight: PriorLossWeight
    train_text_encoder: TrainTextEncoder
    lora_r: LoraRank
    lora_alpha: LoraAlpha
    lora_text_encoder_r: TextEncoderRank
    lora_text_encoder_alpha: TextEncoderAlpha
    caption_dropout: CaptionDropout = 0.0
    shuffle_tags: ShuffleTags = False
    random_flip: RandomFlip = False
    optimizer: OptimizerName = Optimizer.ADAMW
    snr_gamma: SnrGamma = 0.0
    noise_offset: NoiseOffset = 0.0
    zero_terminal_snr: ZeroTerminalSnr = False


class DatasetItem(Struct, frozen=True, omit_defaults=True):
    """One picture of a request.

    Attributes:
        assets_id: id that the upload call answered; some published pages type it as an integer.
        caption: words for this picture; the instance prompt where absent.
        held_out: whether to measure on it instead of training on it.
    """

    assets_id: Annotated[str | int, Meta(description="As the upload call answered it.")]
    caption: Caption | UnsetType = UNSET
    held_out: HeldOut = False


class ComponentArg(Struct, frozen=True):
    """One argument of a component; the published wire carries values as strings, even numbers."""

    name: str
    value: str | int | float | bool


class Component(Struct, frozen=True):
    """A published preparation step of the pictures, by name."""

    name: str
    args: Sequence[ComponentArg] = ()


class FaceRestoration(StrEnum):
    """Models that restore faces, by their published names."""

    GFPGAN = "gfpgan_1.4"


FaceCropRatio = Annotated[
    float,
    Meta(
        ge=0.1,
        le=10,
        description="Side of the crop around the biggest face as a multiple of the face.",
        extra={"published": RANGE_NOT_PUBLISHED},
    ),
]
Buckets = Annotated[
    bool,
    Meta(
        description=f"Keep each picture's shape, as far as sides in multiples of {SIDE_MULTIPLE} and no more pixels"
        " than width times height allow, instead of cropping all to one.",
        extra={"published": OURS},
    ),
]
RestorationMethod = Annotated[
    FaceRestoration, Meta(description="What restores faces; no effect where the operator has not installed it.")
]
RestorationUpscale = Annotated[
    float,
    Meta(
        ge=0.1,
        le=8,
        description="How much larger pictures become by it, before they are cropped and resized.",
        extra={"published": RANGE_NOT_PUBLISHED},
    ),
]
BackgroundColor = Annotated[
    Color, Meta(description="What transparent pictures are laid on, as `#rrggbb`.", extra={"published": OURS})
]


class FaceCropRegion(Struct, frozen=True):
    """Arguments of `face_crop_region`."""

    ratio: FaceCropRatio = 1.0


class Resize(Struct, frozen=True):
    """Arguments of `resize`."""

    width: ResizedSide | UnsetType = UNSET
    height: ResizedSide | UnsetType = UNSET
    buckets: Buckets = False


class FaceRestore(Struct, frozen=True):
    """Arguments of `face_restore`."""

    method: RestorationMethod = FaceRestoration.GFPGAN
    upscale: RestorationUpscale = 1.0


class Background(Struct, frozen=True):
    """Arguments of `background`."""

    color: BackgroundColor = WHITE


Arguments: TypeAlias = FaceCropRegion | Resize | FaceRestore | Background
COMPONENTS: Mapping[str, type[Arguments]] = {
    "face_crop_region": FaceCropRegion,
    "resize": Resize,
    "face_restore": FaceRestore,
    "background": Background,
}
"""The components by their names: the published ones, and ours."""


def component(arguments: Arguments) -> Component:
    """Arguments as a request carries them: under their component's name, without those that are left open."""
    name = next(name for name, kind in COMPONENTS.items() if isinstance(arguments, kind))
    return Component(name, [ComponentArg(*given) for given in msgspec.to_builtins(arguments).items()])


class TrainingRequest(Struct, frozen=True, kw_only=True):
    """The published body of `POST /v3/training/subject` and `/style`."""

    name: TaskName
    base_model: BaseName
    width: Side
    height: Side
    image_dataset_items: Annotated[
        list[DatasetItem],
        Meta(
            min_length=1,
            max_length=MAX_PICTURES,
            description="The pictures, in this order; the same one may come twice.",
            extra={"published": "same; `MAQUETTE_MAX_PICTURES` may lower the most"},
        ),
    ]
    expert_setting: Annotated[ExpertSetting, Meta(description="How to train.")] = ExpertSetting()
    components: Annotated[list[Component], Meta(description="How to prepare the pictures.")] = []


class Preparation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done to each picture before training: the components with their defaults filled in.

    Attributes:
        width, height: pixels every picture is cropped and resized to, multiples of 64.
        face_crop_ratio: side of the crop around the face as a multiple of the face; None leaves faces alone.
        face_restore: name of the requested face restoration; None for none.
        face_restore_upscale: how much larger a picture becomes when faces are restored.
        buckets: whether pictures keep their shapes, within width times height pixels.
        background: what transparent pictures are laid on, `#rrggbb`.
    """

    width: int
    height: int
    face_crop_ratio: float | None = None
    face_restore: str | None = None
    face_restore_upscale: float = 1.0
    buckets: bool = False
    background: Color = WHITE


class BaseRef(Struct, frozen=True, forbid_unknown_fields=True):
    """The base model a task pins: a later registration under the same name is another base."""

    name: str
    family: str
    sha256: str


class Picture(Struct, frozen=True, forbid_unknown_fields=True):
    """One sealed picture of a task.

    Attributes:
        name: how messages call it, and its file name in the run directory (`<position>-<asset id>.<format>`).
        sha256: of the sealed bytes.
        caption: its own words, or None for the instance prompt.
        held_out: whether it is measured on, and not trained on.
    """

    name: str
    sha256: str
    caption: str | None = None
    held_out: bool = False


class SampleSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The picture a trainer draws at its end, which serving later replays."""

    prompt: str
    seed: Seed
    steps: int
    guidance_scale: float
    width: int
    height: int


class TrainingSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides the bytes of a LoRA, besides the software's versions.

    Attributes:
        sample: what is drawn at the end.
        checkpoint_samples: what is drawn with every checkpoint; decides nothing.
    """

    task_type: TaskType
    base: BaseRef
    preparation: Preparation
    settings: TrainingSettings
    pictures: tuple[Picture, ...]
    sample: SampleSpec
    checkpoint_samples: tuple[SampleSpec, ...] = ()

    @property
    def learned(self) -> tuple[Picture, ...]:
        """The pictures that are trained on."""
        return tuple(picture for picture in self.pictures if not picture.held_out)


ADDED_LATER: Mapping[str, Sequence[str]] = {
    "settings": ("caption_dropout", "shuffle_tags", "random_flip", "optimizer", *DIFFUSION_SETTINGS),
    "preparation": ("face_restore_upscale", "buckets", "background"),
}
"""Fields that specs of older servers lack, by the part of a `TrainingSpec`; they mean their defaults there."""


def pinned_form(spec: TrainingSpec) -> bytes:
    """A spec in bytes that stay the same from version to version: what was added later counts where it is set.

    So a run that an older server has begun is known as the same run, and goes on from its checkpoints.
    """
    said = msgspec.to_builtins(spec)
    for part, names in ADDED_LATER.items():
        fields = {field.name: field for field in msgspec.structs.fields(type(getattr(spec, part)))}
        for name in names:
            if said[part][name] == fields[name].default:
                del said[part][name]
    for picture in said["pictures"]:
        if not picture["held_out"]:
            del picture["held_out"]
    if not spec.checkpoint_samples:
        del said["checkpoint_samples"]
    return msgspec.json.encode(said)


class FamilyDefaults(Struct, frozen=True, kw_only=True):
    """A family's answers for fields a request leaves open; each family's `spec.py` holds one."""

    learning_rate: float = 1e-4
    lora_r: int = 16
    sample_steps: int = 30
    sample_guidance_scale: float = 7.5


CONSTANT_DEFAULTS: Mapping[str, object] = {
    "train_batch_size": 1,
    "lr_scheduler": LrScheduler.CONSTANT,
    "lr_warmup_steps": 0,
    "with_prior_preservation": False,
    "prior_loss_weight": 1.0,
    "train_text_encoder": False,
    "caption_dropout": 0.0,
    "shuffle_tags": False,
    "optimizer": Optimizer.ADAMW,
    "snr_gamma": 0.0,
    "noise_offset": 0.0,
    "zero_terminal_snr": False,
}
"""Of settings whose default depends on nothing."""


def resolve(
    request: TrainingRequest,
    *,
    task_type: TaskType,
    base: BaseRef,
    pictures: Sequence[Picture],
    defaults: FamilyDefaults,
    draw_seed: Callable[[], int],
) -> TrainingSpec:
    """Fill in every default of a request and draw its seed.

    Raises:
        InvalidRequest: a component is unknown or has a bad argument, two settings undo each other, or no picture is
            left to train on.
    """
    given = request.expert_setting
    learned = sum(not picture.held_out for picture in pictures)
    if pictures and not learned:
        raise InvalidRequest("image_dataset_items", "must have an item that is not held_out, got none")
    settings = _resolve_settings(given, task_type, learned, defaults, draw_seed)
    preparation = _resolve_preparation(request)
    sample = SampleSpec(
        prompt=settings.instance_prompt,
        seed=settings.seed,
        steps=defaults.sample_steps,
        guidance_scale=defaults.sample_guidance_scale,
        width=preparation.width,
        height=preparation.height,
    )
    return TrainingSpec(
        task_type=task_type,
        base=base,
        preparation=preparation,
        settings=settings,
        pictures=tuple(_with_trigger(picture, given, task_type, settings.class_prompt) for picture in pictures),
        sample=sample,
        checkpoint_samples=(sample, replace(sample, prompt=settings.class_prompt)) if given.checkpoint_samples else (),
    )


def _resolve_settings(
    given: ExpertSetting,
    task_type: TaskType,
    picture_count: int,
    defaults: FamilyDefaults,
    draw_seed: Callable[[], int],
) -> TrainingSettings:
    lora_r = given.lora_r or defaults.lora_r
    text_encoder_r = given.lora_text_encoder_r or lora_r
    class_prompt = given.class_prompt or CLASS_PROMPTS[task_type]
    phrase = _phrase(task_type, given.trigger_word or TRIGGER, class_prompt)
    filled: dict[str, Any] = {
        **CONSTANT_DEFAULTS,
        "learning_rate": defaults.learning_rate,
        "max_train_steps": min(DEFAULT_MAX_STEPS, DEFAULT_STEPS_PER_PICTURE * picture_count),
        "instance_prompt": _default_instance_prompt(task_type, phrase),
        "class_prompt": class_prompt,
        "random_flip": RANDOM_FLIPS[task_type],
        "lora_r": lora_r,
        "lora_alpha": lora_r,
        "lora_text_encoder_r": text_encoder_r,
        "lora_text_encoder_alpha": text_encoder_r,
    }
    filled |= {name: value for name, value in msgspec.structs.asdict(given).items() if value is not UNSET}
    filled.pop("checkpoint_samples", None)
    if "seed" not in filled:
        filled["seed"] = draw_seed()
    if trigger := filled.pop("trigger_word", None):
        filled["instance_prompt"] = with_phrase(filled["instance_prompt"], trigger, phrase)[:MAX_CAPTION]
    if filled["snr_gamma"] and filled["zero_terminal_snr"]:
        raise InvalidRequest(
            "expert_setting.snr_gamma",
            f"must be 0 with zero_terminal_snr, whose noise without signal it weighs by nothing, got"
            f" {filled['snr_gamma']:g}; leave one of the two out",
        )
    return TrainingSettings(**filled)


def _with_trigger(picture: Picture, given: ExpertSetting, task_type: TaskType, class_prompt: str) -> Picture:
    """A picture whose own caption, where it has one, says the trigger word, where one is given."""
    if picture.caption is None or not given.trigger_word:
        return picture
    phrase = _phrase(task_type, given.trigger_word, class_prompt)
    return replace(picture, caption=with_phrase(picture.caption, given.trigger_word, phrase))


def _resolve_preparation(request: TrainingRequest) -> Preparation:
    preparation = Preparation(width=request.width, height=request.height)
    for index, component in enumerate(request.components):
        match _arguments(component, f"components[{index}]"):
            case Resize(width=width, height=height, buckets=buckets):
                preparation = replace(
                    preparation,
                    width=width or preparation.width,
                    height=height or preparation.height,
                    buckets=buckets,
                )
            case FaceCropRegion(ratio=ratio):
                preparation = replace(preparation, face_crop_ratio=ratio)
            case FaceRestore(method=method, upscale=upscale):
                preparation = replace(preparation, face_restore=method, face_restore_upscale=upscale)
            case Background(color=color):
                preparation = replace(preparation, background=color)
    return replace(preparation, width=_side(preparation.width), height=_side(preparation.height))


def _arguments(component: Component, field: str) -> Arguments:
    """A component's arguments by their types, each at most once, in any order."""
    kind = COMPONENTS.get(component.name)
    if kind is None:
        known = ", ".join(COMPONENTS)
        raise InvalidRequest(f"{field}.name", f"unknown component {component.name!r}; known are {known}")
    given: dict[str, str | int | float | bool] = {}
    for index, arg in enumerate(component.args):
        place = f"{field}.args[{index}].name"
        if arg.name not in kind.__struct_fields__:
            known = ", ".join(kind.__struct_fields__)
            raise InvalidRequest(place, f"unknown argument {arg.name!r}; known are {known}")
        if arg.name in given:
            raise InvalidRequest(place, f"the argument {arg.name!r} is given twice")
        given[arg.name] = arg.value
    return read(given, kind, field)


def _side(pixels: int) -> int:
    """Round down to what the autoencoders can take, at least one multiple."""
    return max(SIDE_MULTIPLE, pixels // SIDE_MULTIPLE * SIDE_MULTIPLE)
