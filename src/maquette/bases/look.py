"""What a path looks like at a glance, so that one who registers the wrong thing is told what it is."""

from pathlib import Path

from msgspec import Struct

from maquette.bases.catalogue import BaseKind
from maquette.core.basefolder import MODEL_INDEX, BrokenBase, read_config
from maquette.core.weights import BrokenWeights, read_header

SAFETENSORS = ".safetensors"
CONFIG = "config.json"
AUTOENCODER = "Autoencoder"
"""In the names of diffusers' classes of them."""
_BASE = f"which is a folder in diffusers layout with a {MODEL_INDEX}, or one {SAFETENSORS} file"
EXPECTED = {
    BaseKind.CHECKPOINT: f"a checkpoint, {_BASE}",
    BaseKind.REFINER: f"a refiner, {_BASE}",
    BaseKind.VAE: "a VAE, which is the folder of an autoencoder in diffusers layout",
    BaseKind.EMBEDDING: f"an embedding, which is a {SAFETENSORS} file",
}
IN_ONE_FILE = "a checkpoint in one file"
MARKS = {
    ".lora_": "a LoRA's file",
    "lora_unet_": "a LoRA's file",
    "model.diffusion_model.": IN_ONE_FILE,
    "double_blocks.": IN_ONE_FILE,
    "first_stage_model.": "a VAE's file, which diffusers can convert to a folder",
    "decoder.mid": "a VAE's file, which diffusers can convert to a folder",
    "text_model.": "a text encoder's file",
    "down_blocks.": "a UNet's file",
}
"""Parts of tensors' names that tell what a file is."""


class Look(Struct, frozen=True):
    """What a path seems to be.

    Attributes:
        words: for people.
        kind: to add it as; None where it can't be added as it is.
        checkpoint: name of the one file that can be added as a checkpoint, if it is named itself and not its folder.
    """

    words: str
    kind: BaseKind | None = None
    checkpoint: str | None = None


def expect(path: Path, kind: BaseKind) -> None:
    """Assert that a path looks like a kind; a refiner looks like a checkpoint.

    Raises:
        BrokenBase: it does not; the message says what it looks like.
    """
    found = look(path)
    wanted = BaseKind.CHECKPOINT if kind is BaseKind.REFINER else kind
    if found.kind is wanted:
        return
    raise BrokenBase(f"{path}: expected {EXPECTED[kind]}, found {found.words}{_fix(found)}")


def look(path: Path) -> Look:
    """What a path seems to be. Whether it is whole is not looked at.

    Raises:
        BrokenBase: a configuration in it can't be read.
    """
    if path.is_dir():
        return _look_at_folder(path)
    if not path.exists():
        return Look("nothing")
    if path.suffix != SAFETENSORS:
        return Look(f"a file that does not end in {SAFETENSORS}; pickled weights must be converted")
    return _look_at_file(path)


def _fix(found: Look) -> str:
    if found.checkpoint:
        return f"; add the file itself, {found.checkpoint}, with --kind {BaseKind.CHECKPOINT}"
    return f"; add it with --kind {found.kind}" if found.kind else ""


def _look_at_folder(path: Path) -> Look:
    if (path / MODEL_INDEX).exists():
        return Look("a checkpoint's folder", BaseKind.CHECKPOINT)
    if (path / CONFIG).exists():
        config = read_config(path / CONFIG)
        name = str(config.get("_class_name") or config.get("model_type") or "something")
        return Look("a VAE's folder", BaseKind.VAE) if AUTOENCODER in name else Look(f"the folder of {name}")
    files = sorted(path.glob(f"*{SAFETENSORS}"))
    if len(files) == 1:
        return _look_at_file(files[0])
    return Look(f"a folder with neither {MODEL_INDEX} nor {CONFIG} and {len(files)} {SAFETENSORS} files")


def _look_at_file(path: Path) -> Look:
    try:
        names = read_header(path).tensors
    except BrokenWeights as error:
        raise BrokenBase(str(error)) from error
    for mark, words in MARKS.items():
        if any(mark in name for name in names):
            return Look(words, checkpoint=path.name if words == IN_ONE_FILE else None)
    return Look("an embedding's file", BaseKind.EMBEDDING)
