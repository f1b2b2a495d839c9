"""The wire forms of models."""

from enum import StrEnum

from msgspec import Struct


class ModelType(StrEnum):
    """What a model is for, by the published names."""

    CHECKPOINT = "checkpoint"
    LORA = "lora"
    VAE = "vae"
    CONTROLNET = "controlnet"
    UPSCALER = "upscaler"
    TEXTUAL_INVERSION = "textualinversion"


class Visibility(StrEnum):
    """Whose a model is: the operator's, for every tenant, or the tenant's own."""

    PUBLIC = "public"
    PRIVATE = "private"


class Source(StrEnum):
    """Where a model comes from, by the published names."""

    CIVITAI = "civitai"
    TRAINING = "training"
    UPLOADING = "uploading"


class TypeEntry(Struct, frozen=True):
    """A model's type, and what people call it."""

    name: ModelType
    display_name: str


class ModelRow(Struct, frozen=True, kw_only=True):
    """One model, exactly as published.

    Attributes:
        id: of a tenant's own model, its running number; the operator's are far behind those.
        name: that of the task it was trained by, or that it was registered under.
        sd_name: its file's name.
        status: 1 where it can be drawn with, 0 where it can't.
        sd_name_in_api: how requests call it; they may use `sd_name` as well.
        hash_sha256: the first ten characters of its hash.
        download_url, download_url_ttl: where its weights are, for how many seconds; empty where they are not given out.
        cover_url: a picture drawn with it, likewise.
        base_model: its family.
        base_model_type: "Standard".
    """

    id: int
    name: str
    sd_name: str
    type: TypeEntry
    status: int
    sd_name_in_api: str
    hash_sha256: str
    categories: list[str]
    tags: list[str]
    download_url: str
    download_url_ttl: int
    cover_url: str
    source: Source
    base_model: str
    base_model_type: str
    is_sdxl: bool
    is_nsfw: bool


class ModelPagination(Struct, frozen=True):
    """Where the next page begins, `c_` and how many models to skip; empty on an empty page."""

    next_cursor: str


class ModelList(Struct, frozen=True):
    """One page of the published list."""

    models: list[ModelRow]
    pagination: ModelPagination
