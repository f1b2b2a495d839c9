"""Looking at a textual inversion (Gal et al. 2022) before it is registered.

Its file holds one or more vectors of a text encoder, and writers call them differently: `emb_params`;
`string_to_param.*`, as flattened from the older pickled form; the word itself, alone in its file. Families with two
text encoders have vectors of both, `clip_l` and `clip_g`.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from maquette.core.basefolder import BrokenBase
from maquette.core.files import file_sha256
from maquette.core.weights import BrokenWeights, TensorInfo, read_header

VECTORS = "emb_params"
FLATTENED = "string_to_param"
OF_TWO_ENCODERS = frozenset({"clip_l", "clip_g"})
SUFFIX = ".safetensors"


class EmbeddingFile(Struct, frozen=True):
    """A file that can serve as a textual inversion.

    Attributes:
        path: absolute.
        family: of the bases whose text encoders it is for.
        sha256: of the file.
        text_width: numbers in a vector, which must be the text encoder's; None where there are two encoders.
    """

    path: Path
    family: str
    sha256: str
    text_width: int | None


def inspect_embedding(path: Path) -> EmbeddingFile:
    """Check that a safetensors file, or the only one in a folder, holds a textual inversion, and hash it.

    Raises:
        BrokenBase: it does not; the message names the file and the fix.
    """
    file = _only_file(path.resolve())
    try:
        tensors = read_header(file).tensors
    except BrokenWeights as error:
        raise BrokenBase(str(error)) from error
    if tensors.keys() >= OF_TWO_ENCODERS:
        return EmbeddingFile(file, "sdxl", file_sha256(file), None)
    return EmbeddingFile(file, "sd15", file_sha256(file), _width(file, tensors))


def _only_file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if len(files) != 1:
            raise BrokenBase(f"{path} holds {len(files)} {SUFFIX} files; name the one that is the embedding")
        return files[0]
    if not path.is_file():
        raise BrokenBase(f"{path} does not exist; an embedding is a {SUFFIX} file")
    if path.suffix != SUFFIX:
        raise BrokenBase(f"{path} is no {SUFFIX} file; convert pickled embeddings to safetensors")
    return path


def _width(file: Path, tensors: Mapping[str, TensorInfo]) -> int:
    """How many numbers a vector has; a lone vector may be written without its first dimension."""
    found = [info for name, info in tensors.items() if name == VECTORS or name.split(".")[0] == FLATTENED]
    candidates = found or list(tensors.values())
    if len(candidates) != 1 or len(candidates[0].shape) not in (1, 2) or 0 in candidates[0].shape:
        held = ", ".join(f"{name} {list(info.shape)}" for name, info in list(tensors.items())[:5])
        raise BrokenBase(f"{file} holds no textual inversion: wanted one tensor of vectors, found {held or 'none'}")
    return candidates[0].shape[-1]
