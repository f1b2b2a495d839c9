"""The server's settings: one table, read from `MAQUETTE_*` variables. `docs/operations.md` shows the same table."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from maquette.core.errors import InvalidRequest
from maquette.core.specs import MAX_PICTURES
from maquette.pictures.limits import PictureLimits

PREFIX = "MAQUETTE_"


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
            description="What upload addresses begin with, as clients reach the server;"
            " empty is the host of each request.",
        ),
    ] = ""
    signing_secret: Annotated[
        str,
        Meta(
            pattern=r"^(.{32,})?$",
            description="Signs upload addresses, 32 characters or more; empty is one drawn once and kept in the data"
            " folder. Several servers must share one.",
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
    checkpoint_every: Annotated[int, Meta(ge=1, description="Optimiser steps between two checkpoints.")] = 100
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
