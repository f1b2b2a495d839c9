"""What identifies a base model's folder: its family and the hash of what it draws with.

A base is a folder in diffusers layout: `model_index.json` and one folder a component.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from maquette.core.files import file_sha256

MODEL_INDEX = "model_index.json"

DECIDING_SUFFIXES = frozenset({".safetensors", ".json", ".txt"})
"""Weights, configurations and tokenizer files. Model cards and pictures beside them decide nothing."""

PIPELINE_FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusionXLPipeline": "sdxl",
    "FluxPipeline": "flux1",
}
"""Family by the pipeline class that `model_index.json` names; says nothing of whether this installation has it."""


class BrokenBase(Exception):
    """The folder is missing, or is no base model that can be used; the message names the file and the fix."""


def read_model_index(root: Path) -> dict[str, object]:
    """The pipeline class and components that a base's folder declares.

    Raises:
        BrokenBase: there is no readable `model_index.json`.
    """
    path = root / MODEL_INDEX
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except FileNotFoundError:
        raise BrokenBase(f"{path} does not exist; a base is a folder in diffusers layout") from None
    except (OSError, msgspec.DecodeError) as error:
        raise BrokenBase(f"{path} can't be read: {error}") from error


def base_family(root: Path) -> str:
    """The family of a base's folder.

    Raises:
        BrokenBase: its pipeline class is of no known family.
    """
    pipeline = read_model_index(root).get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in PIPELINE_FAMILIES:
        known = ", ".join(PIPELINE_FAMILIES)
        raise BrokenBase(f"{root / MODEL_INDEX} names the pipeline {pipeline!r}; known pipelines are {known}")
    return PIPELINE_FAMILIES[pipeline]


def base_sha256(root: Path) -> str:
    """Hex SHA-256 that changes exactly if what the base draws may change.

    It is the hash of the lines `<file's sha256>  <relative path>` of all deciding files, sorted by path, so that
    neither the order in which a file system lists them nor where the folder lies matters.
    """
    files = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*")
        if path.suffix in DECIDING_SUFFIXES and path.is_file() and not _is_hidden(path.relative_to(root))
    )
    lines = "".join(f"{file_sha256(path)}  {name}\n" for name, path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
