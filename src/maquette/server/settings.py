"""The server's settings: one table, read from `MAQUETTE_*` variables. `docs/operations.md` shows the same table."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from maquette.core.errors import InvalidRequest
from maquette.core.image_specs import MAX_DRAWING_STEPS, MAX_IMAGE_PIXELS, MAX_IMAGES, MIN_IMAGE_SIDE, ImageLimits
from maquette.core.rundir import DEFAULT_CACHE_BYTES
from maquette.core.specs import MAX_PICTURES, MAX_SIDE, SIDE_MULTIPLE
from maquette.executors.node import NodeSettings
from maquette.pictures.limits import PictureLimits
from maquette.server.images.copies import OpenedBucket, read_opened
from maquette.server.webhooks.reach import Reach, read_networks
from maquette.serving.base import PoolSettings

PREFIX = "MAQUETTE_"
SANDBOX_TRAINER = ("-m", "maquette.rehearsal.trainer")
SANDBOX_WORKER = ("-m", "maquette.rehearsal.worker")
"""Programs that break down where they are asked to, and else do as the usual ones do."""


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    JSON = "json"


class Settings(Struct, frozen=True, kw_only=True):
    """Everything an operator may set."""

    data_dir: Annotated[
        Path, Meta(description="Folder of all that the server keeps by itself: database, objects, signing secret.")
    ] = Path("maquette-data")
    database_url: Annotated[
        str,
        Meta(
            description="`sqlite:///path` or `postgresql://user@host/name`;"
            " empty is the file `maquette.db` in the data folder."
        ),
    ] = ""
    storage_url: Annotated[
        str,
        Meta(
            description="`file:///path`, `s3://bucket/prefix`, `gs://…` or `az://…`;"
            " empty is the folder `objects` in the data folder."
        ),
    ] = ""
    public_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?$",
            description="What addresses of uploads and pictures begin with, as clients reach the server;"
            " empty is the host of each request.",
        ),
    ] = ""
    cors_origins: Annotated[
        str,
        Meta(
            pattern=r"^(\*|https?://[^\s/,*]+(\s*,\s*https?://[^\s/,*]+)*)?$",
            description="Origins of web pages that may call the API, such as `https://app.example,http://localhost:3000`;"
            " `*` is every page, empty is none.",
        ),
    ] = ""
    signing_secret: Annotated[
        str,
        Meta(
            pattern=r"^(.{32,})?$",
            description="Signs addresses of uploads and pictures, 32 characters or more; empty is one drawn once and"
            " kept in the data folder. Several servers must share one.",
        ),
    ] = ""
    upload_ttl: Annotated[int, Meta(ge=1, description="Seconds for which an upload address may be used.")] = 600
    keep_unused_uploads: Annotated[
        int,
        Meta(
            ge=3600,
            description="Seconds for which a picture that no training has taken is kept after its upload address"
            " expired, 3600 or more.",
        ),
    ] = 24 * 3600
    idempotency_ttl: Annotated[
        float, Meta(gt=0, description="Seconds for which a creating request may be sent again under its key.")
    ] = 24 * 3600.0
    max_upload_bytes: Annotated[int, Meta(ge=1, description="Largest picture, in bytes.")] = 30_000_000
    max_pixels: Annotated[int, Meta(ge=1, description="Largest picture, in pixels: width times height.")] = 40_000_000
    max_body_bytes: Annotated[int, Meta(ge=1024, description="Largest JSON body, in bytes.")] = 2_000_000
    max_pictures: Annotated[
        int, Meta(ge=1, le=MAX_PICTURES, description=f"Most pictures in one training; {MAX_PICTURES} is published.")
    ] = MAX_PICTURES
    max_train_steps: Annotated[
        int, Meta(ge=1, le=10_000, description="Most optimiser steps that one training may ask for, up to 10000.")
    ] = 10_000
    max_image_num: Annotated[
        int,
        Meta(
            ge=1, le=MAX_IMAGES, description=f"Most pictures that one request may ask for; {MAX_IMAGES} is published."
        ),
    ] = MAX_IMAGES
    max_image_steps: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_DRAWING_STEPS,
            description=f"Most denoising steps of a drawn picture; {MAX_DRAWING_STEPS} is published.",
        ),
    ] = MAX_DRAWING_STEPS
    max_image_pixels: Annotated[
        int,
        Meta(
            ge=MIN_IMAGE_SIDE**2,
            le=MAX_IMAGE_PIXELS,
            description=f"Largest drawn picture, in pixels: width times height; {MAX_IMAGE_PIXELS} is published.",
        ),
    ] = MAX_IMAGE_PIXELS
    images_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            description="Pictures that one tenant may ask for in a minute, over all its keys; 0 is no limit. Asking for"
            " results is never limited.",
        ),
    ] = 0
    max_original_bytes: Annotated[
        int, Meta(ge=1, description="Largest picture that drawing may start from, in bytes.")
    ] = 10_000_000
    max_original_pixels: Annotated[
        int, Meta(ge=1, description="Largest picture that drawing may start from, in pixels: width times height.")
    ] = 16_000_000
    image_url_ttl: Annotated[
        int, Meta(ge=3600, description="Seconds for which the address of a drawn picture is good, 3600 or more.")
    ] = 3600
    keep_images: Annotated[
        int,
        Meta(
            ge=3600,
            description="Seconds for which an image task that has ended can be asked for, 3600 or more; its pictures"
            " are kept until the last address handed out has expired.",
        ),
    ] = 24 * 3600
    model_url_ttl: Annotated[
        int, Meta(ge=60, description="Seconds for which the address of a trained model is good, 60 or more.")
    ] = 24 * 3600
    credit_balance: Annotated[
        int,
        Meta(
            ge=0,
            le=2**53,
            description="What clients are told of their balance, in 0.0001 USD. Nothing is billed; some clients refuse"
            " to work with little.",
        ),
    ] = 1_000_000_000
    executor: Annotated[
        str, Meta(description="Where trainings run: `local`, or one that another package registers.")
    ] = "local"
    devices: Annotated[
        str,
        Meta(
            description="Devices that trainings may use, one training each, such as `cuda:0,cuda:1`;"
            " `auto` is every NVIDIA device of the machine, or its CPU where there is none."
        ),
    ] = "auto"
    trainer_threads: Annotated[
        int, Meta(ge=1, description="CPU threads of one training.", extra={"default": "the number of cores"})
    ] = os.cpu_count() or 1
    trainer_nice: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="How far trainings stand back for what else runs on the machine, drawing above all: 0 is not at"
            " all, 19 the most.",
        ),
    ] = 10
    trainer_cache_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes of encoded pictures and prompts that each node keeps for a tenant's next trainings;"
            " 0 keeps none.",
        ),
    ] = DEFAULT_CACHE_BYTES
    face_detector: Annotated[
        str,
        Meta(
            description="File of a YuNet model (ONNX) that finds faces in pictures; empty is the detector that OpenCV"
            " ships."
        ),
    ] = ""
    pool: Annotated[
        str, Meta(description="Where pictures are drawn: `local`, or a pool that another package registers.")
    ] = "local"
    drawing_devices: Annotated[
        str, Meta(description="Devices that draw, one worker each, written as `MAQUETTE_DEVICES` is.")
    ] = "auto"
    drawing_threads: Annotated[
        int, Meta(ge=1, description="CPU threads of one worker that draws.", extra={"default": "the number of cores"})
    ] = os.cpu_count() or 1
    drawing_lora_bytes: Annotated[int, Meta(ge=1, description="Bytes of LoRAs that one worker keeps in memory.")] = (
        1 << 30
    )
    drawing_disk_bytes: Annotated[
        int, Meta(ge=1, description="Bytes of LoRA files that are kept beside the workers.")
    ] = 8 << 30
    drawing_bases: Annotated[int, Meta(ge=1, description="Base models that one worker keeps in memory.")] = 1
    drawing_longest_wait: Annotated[
        float,
        Meta(gt=0, description="Seconds for which a picture gives way to others that suit what a worker has loaded."),
    ] = 30.0
    drawing_overdue_slice: Annotated[
        int,
        Meta(ge=1, description="A picture that has waited so long gives way to fewer than so many younger ones still."),
    ] = 16
    drawing_start: Annotated[
        float, Meta(gt=0, description="Seconds that a worker that draws may take until it is ready.")
    ] = 300.0
    drawing_silence: Annotated[
        float, Meta(gt=0, description="Seconds without a sign after which a worker that draws is replaced.")
    ] = 300.0
    image_deadline: Annotated[
        float,
        Meta(gt=0, description="Seconds from its creation after which an image task fails, waiting or being drawn."),
    ] = 24 * 3600.0
    comparison_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds after which comparing a new model with its trainer's sample is begun anew, the wait"
            " for a worker included.",
        ),
    ] = 3600.0
    model_wait: Annotated[
        float, Meta(ge=0, description="Seconds for which an image task waits until its LoRA is served.")
    ] = 600.0
    outbound_allow: Annotated[
        str,
        Meta(
            description="Networks that webhooks may be in though they are not public, such as `10.0.0.0/8,192.168.1.5`."
        ),
    ] = ""
    webhook_timeout: Annotated[float, Meta(gt=0, description="Seconds that a webhook has to answer.")] = 5.0
    custom_storage: Annotated[
        str,
        Meta(
            description="Buckets that requests may have their pictures copied to, or folders in them, such as"
            " `s3://pictures,acme=s3://shared/of/acme`; behind a tenant's name and `=` is what is open to that one"
            " alone, and empty opens none."
        ),
    ] = ""
    checkpoint_every: Annotated[int, Meta(ge=1, description="Optimiser steps between two checkpoints.")] = 100
    keep_checkpoint_every: Annotated[
        int,
        Meta(
            ge=0,
            description="Checkpoints whose step is a multiple of this stay, beside the newest two; 0 keeps no others.",
        ),
    ] = 500
    task_deadline: Annotated[
        float, Meta(gt=0, description="Seconds from a task's creation after which it is FAILED, queued or training.")
    ] = 7 * 24 * 3600.0
    stop_grace: Annotated[
        float, Meta(ge=0, description="Seconds between asking a trainer to end by SIGTERM and ending it by SIGKILL.")
    ] = 10.0
    abandon_after: Annotated[
        float, Meta(gt=0, description="Seconds without a server after which a trainer takes a checkpoint and ends.")
    ] = 600.0
    loop_interval: Annotated[
        float, Meta(gt=0, description="Seconds between two looks at the queue and at running trainings.")
    ] = 0.5
    reap_interval: Annotated[float, Meta(gt=0, description="Seconds between two rounds of clearing up.")] = 60.0
    sandbox: Annotated[
        bool,
        Meta(
            description="Whether this server is a sandbox, for trying clients out: every published base is the bundled"
            " one, trainings and pictures are small, and what a client asks to break down does (`docs/sandbox.md`)."
        ),
    ] = False
    sandbox_side: Annotated[
        int,
        Meta(
            ge=MIN_IMAGE_SIDE,
            le=MAX_SIDE,
            multiple_of=SIDE_MULTIPLE,
            description="Most pixels of a picture's side in a sandbox, trained on or drawn; a multiple of"
            f" {SIDE_MULTIPLE}.",
        ),
    ] = 128
    sandbox_steps: Annotated[
        int, Meta(ge=1, description="Most steps of a training in a sandbox, and of a picture that is drawn.")
    ] = 60
    log_format: Annotated[LogFormat, Meta(description="`console` for people, `json` for machines.")] = LogFormat.CONSOLE

    @property
    def database(self) -> str:
        """URL of the database to open."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'maquette.db'}"

    @property
    def storage(self) -> str:
        """URL of the storage to open."""
        return self.storage_url or f"file://{self.data_dir.absolute() / 'objects'}"

    @property
    def allowed_origins(self) -> list[str]:
        """Origins of pages that may call, as browsers write them; `*` is every page."""
        return [origin.strip().lower() for origin in self.cors_origins.split(",") if origin.strip()]

    @property
    def image_limits(self) -> ImageLimits:
        """What a request for pictures may ask for at most."""
        images = min(self.max_image_num, self.images_per_minute or self.max_image_num)
        return ImageLimits(pixels=self.max_image_pixels, steps=self.max_image_steps, images=images)

    @property
    def node_settings(self) -> NodeSettings:
        """What every executor's nodes are given."""
        settings = NodeSettings(
            threads=self.trainer_threads,
            abandon_after=self.abandon_after,
            nice=self.trainer_nice,
            cache_bytes=self.trainer_cache_bytes,
            face_detector=self.face_detector,
        )
        return replace(settings, program=SANDBOX_TRAINER) if self.sandbox else settings

    @property
    def pool_settings(self) -> PoolSettings:
        """What every pool is given."""
        settings = PoolSettings(
            threads=self.drawing_threads,
            lora_bytes=self.drawing_lora_bytes,
            bases=self.drawing_bases,
            staged_bytes=self.drawing_disk_bytes,
            longest_wait=self.drawing_longest_wait,
            overdue_slice=self.drawing_overdue_slice,
            start_timeout=self.drawing_start,
            silence_timeout=self.drawing_silence,
        )
        return replace(settings, program=SANDBOX_WORKER) if self.sandbox else settings

    @property
    def outbound_reach(self) -> Reach:
        """What tenants may make the server call.

        Raises:
            InvalidRequest: one of them is no network.
        """
        try:
            return Reach(read_networks(self.outbound_allow))
        except ValueError as error:
            raise InvalidRequest(variable("outbound_allow"), f"can't be used: {error}") from None

    @property
    def opened_buckets(self) -> tuple[OpenedBucket, ...]:
        """Where requests may have their pictures copied.

        Raises:
            InvalidRequest: one of them is no bucket's address.
        """
        try:
            return read_opened(self.custom_storage)
        except ValueError as error:
            raise InvalidRequest(variable("custom_storage"), f"can't be used: {error}") from None

    @property
    def original_limits(self) -> PictureLimits:
        """What a picture that drawing starts from may be at most."""
        return PictureLimits(self.max_original_bytes, self.max_original_pixels)

    @property
    def max_body_with_picture(self) -> int:
        """Largest JSON body that carries a picture, in bytes: Base64 has four characters for three bytes."""
        return self.max_body_bytes + -(-self.max_original_bytes // 3) * 4

    @property
    def picture_limits(self) -> PictureLimits:
        """What one upload may be at most."""
        return PictureLimits(self.max_upload_bytes, self.max_pixels)


def load_settings(environment: Mapping[str, str], **overrides: object) -> Settings:
    """Read every setting from `environment`; `overrides` that are not None (the command line's) win.

    An empty variable counts as unset. Other variables with our prefix are ignored: clients have some of their own.

    Raises:
        InvalidRequest: a value can't be used; the message names the variable and what it takes.
    """
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        given = overrides.get(field.name) or environment.get(variable(field.name))
        if given:
            values[field.name] = _read(field, given)
    return Settings(**values)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def settings_table() -> str:
    """Every setting with its default and meaning, as a Markdown table."""
    rows = [
        f"| `{variable(field.name)}` | {_default(field)} | {_meta(field).description} |"
        for field in msgspec.structs.fields(Settings)
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


def _read(field: msgspec.structs.FieldInfo, given: object) -> Any:
    try:
        return msgspec.convert(given, field.type, strict=False, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        # The value is not repeated: it may be a secret, or a URL with a password in it.
        raise InvalidRequest(variable(field.name), f"can't be used: {error}. {_meta(field).description}") from None


def _default(field: msgspec.structs.FieldInfo) -> str:
    """In words where the default depends on the machine."""
    if words := (_meta(field).extra or {}).get("default"):
        return words
    return f"`{field.default}`" if str(field.default) else "empty"


def _meta(field: msgspec.structs.FieldInfo) -> Meta:
    (meta,) = field.type.__metadata__
    return meta
