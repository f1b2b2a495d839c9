"""Looking at a textual inversion before it is registered: its file holds one or more vectors of a text encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from maquette.bases.catalogue import BaseKind
from maquette.bases.look import SAFETENSORS, expect
from maquette.bases.numbers import FORMATS, is_finite
from maquette.core.basefolder import BaseLayout, BrokenBase
from maquette.core.embeddings import OF_ONE_ENCODER, OF_TWO_ENCODERS, vector_names
from maquette.core.files import file_sha256
from maquette.core.weights import TensorInfo, read_header

MOST_VECTORS = 75
"""As many tokens as published text encoders read at once; an embedding is never cut."""


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


def inspect_embedding(path: Path, layouts: Mapping[str, BaseLayout]) -> EmbeddingFile:
    """Check that a safetensors file, or the only one in a folder, holds a textual inversion, and hash it.

    It is for the first of the families with these layouts whose bases take such tensors.

    Raises:
        BrokenBase: it does not; the message names the file and the fix.
    """
    expect(path, BaseKind.EMBEDDING)
    file = _only_file(path.resolve())
    header = read_header(file)
    vectors = _vectors(file, header.tensors)
    for name, tensor in vectors.items():
        _check_shape(file, name, tensor)
        try:
            if not is_finite(file, header, tensor):
                raise BrokenBase(f"{file}: expected finite numbers, found others in {name}")
        except ValueError as error:
            raise BrokenBase(f"{file}: {name} can't be read: {error}") from None
    if len({_count(tensor) for tensor in vectors.values()}) > 1:
        counts = ", ".join(f"{_count(tensor)} of {name}" for name, tensor in vectors.items())
        raise BrokenBase(f"{file}: expected as many vectors for either text encoder, found {counts}")
    if len(vectors) > 1:
        return EmbeddingFile(file, _family(file, OF_TWO_ENCODERS, layouts), file_sha256(file), None)
    (tensor,) = vectors.values()
    return EmbeddingFile(file, _family(file, OF_ONE_ENCODER, layouts), file_sha256(file), tensor.shape[-1])


def _only_file(path: Path) -> Path:
    return next(path.glob(f"*{SAFETENSORS}")) if path.is_dir() else path


def _vectors(file: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of vectors: one for each text encoder."""
    names = vector_names(tensors)
    if len(names) != 1 and names != list(OF_TWO_ENCODERS):
        held = ", ".join(f"{name} {list(info.shape)}" for name, info in list(tensors.items())[:5])
        raise BrokenBase(f"{file}: expected one tensor of vectors, found {held or 'none'}")
    return {name: tensors[name] for name in names}


def _check_shape(file: Path, name: str, tensor: TensorInfo) -> None:
    """A lone vector may be written without its first dimension."""
    if tensor.dtype not in FORMATS:
        raise BrokenBase(f"{file}: expected vectors in {', '.join(FORMATS)}, found {name} in {tensor.dtype}")
    if len(tensor.shape) not in (1, 2) or 0 in tensor.shape or _count(tensor) > MOST_VECTORS:
        raise BrokenBase(f"{file}: expected 1 to {MOST_VECTORS} vectors, found {name} {list(tensor.shape)}")


def _family(file: Path, tensors: Sequence[str], layouts: Mapping[str, BaseLayout]) -> str:
    for family, layout in layouts.items():
        if layout.embeddings == tensors:
            return family
    raise BrokenBase(f"{file}: no family of this installation takes an embedding of {' and '.join(tensors)}")


def _count(tensor: TensorInfo) -> int:
    return 1 if len(tensor.shape) == 1 else tensor.shape[0]
