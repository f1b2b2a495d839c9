"""What identifies a base model's folder: its family and the hash of what it draws with.

A base is a folder in diffusers layout: `model_index.json` and one folder a component. Weights may lie in one file
beside these.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from maquette.core.files import file_sha256

MODEL_INDEX = "model_index.json"
WEIGHTS = "*.safetensors"

SMALL_SUFFIXES = frozenset({".json", ".txt", ".model", ".spm", ".codes", ".tiktoken", ".jinja"})
"""Of configurations and of all that tokenizers read: words and their pieces, and templates of what they are told."""
DECIDING_SUFFIXES = SMALL_SUFFIXES | {".safetensors"}
"""Model cards and pictures beside them decide nothing."""
UNFIT_EXIT = 3
"""Exit code of `maquette.families.trial` for a base that can't be used; Python itself has others."""


class ComponentLayout(Struct, frozen=True):
    """What the folder of a component holds: a configuration, and weights unless it has none."""

    config: str = "config.json"
    weights: bool = True


class Width(Struct, frozen=True):
    """How long a tensor is along an axis, which a component's configuration says too.

    Attributes:
        tensor: as the file names it.
        axis: counted from zero.
        component: whose configuration it is.
        field: of the configuration; behind a dot is a place in a list, from the end if negative.
    """

    tensor: str
    axis: int
    component: str
    field: str


class Depth(Struct, frozen=True):
    """How many blocks of a kind a file has, which a component's configuration says too; see `Width`.

    Attributes:
        blocks: what their tensors' names begin with, up to the block's number.
    """

    blocks: str
    component: str
    field: str


class FileLayout(Struct, frozen=True, kw_only=True):
    """How a family's bases were published in one file, which knows neither configurations nor tokenizers.

    Attributes:
        marks: tensors that every such file has. A file is of the first layout whose marks it has all.
        components: a tensor of each component whose weights may be in the file.
        widths, depths: what the configurations beside a file must say of it.
        published: repository on a model hub whose configurations are for such files; None where the file does not
            tell which are.
    """

    marks: frozenset[str]
    components: Mapping[str, str]
    widths: tuple[Width, ...] = ()
    depths: tuple[Depth, ...] = ()
    published: str | None = None


class BaseLayout(Struct, frozen=True):
    """What a family's bases look like.

    Attributes:
        pipelines: pipeline classes that `model_index.json` may name.
        components: those that training and drawing load. A folder may hold more, which nobody looks at.
        files: how they were published in one file; none where they never were.
        autoencoders: by diffusers' classes of those that may be added on their own, what they multiply latents with,
            by which a folder of one is told from other families'; no number where the class alone tells.
        embeddings: the tensors of a textual inversion for its text encoders, `OF_ONE_ENCODER` or `OF_TWO_ENCODERS`;
            none where it can't draw with such.
    """

    pipelines: frozenset[str]
    components: Mapping[str, ComponentLayout]
    files: tuple[FileLayout, ...] = ()
    autoencoders: Mapping[str, tuple[float, ...]] = {}
    embeddings: tuple[str, ...] = ()


class BrokenBase(Exception):
    """The folder is missing, or is no base model that can be used; the message names the file and the fix."""


def read_config(path: Path) -> dict[str, object]:
    """A JSON object of a base's folder.

    Raises:
        BrokenBase: there is none that can be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except FileNotFoundError:
        raise BrokenBase(f"{path} does not exist; a base is a folder in diffusers layout") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenBase(f"{path} can't be read: {error}") from error


def single_file(root: Path, components: Iterable[str]) -> Path | None:
    """The one file, beside the components' folders, of weights that these lack; None where they lack none.

    Checkpoints were published so before there were folders, and some folders hold such files besides all else.

    Raises:
        BrokenBase: weights are lacking, and there are several such files.
    """
    if all(any((root / component).glob(WEIGHTS)) for component in components):
        return None
    files = sorted(root.glob(WEIGHTS))
    if len(files) > 1:
        raise BrokenBase(
            f"{root} holds {len(files)} files of weights beside its folders; leave one: {files[0].name}, …"
        )
    return files[0] if files else None


def base_family(root: Path, layouts: Mapping[str, BaseLayout]) -> str:
    """The family of a base's folder, one of those in `layouts`; where several have its pipeline, the first.

    Raises:
        BrokenBase: its pipeline class is of none of them.
    """
    pipeline = read_config(root / MODEL_INDEX).get("_class_name")
    for family, layout in layouts.items():
        if pipeline in layout.pipelines:
            return family
    known = ", ".join(f"{family} ({', '.join(sorted(layout.pipelines))})" for family, layout in layouts.items())
    raise BrokenBase(f"{root / MODEL_INDEX} names the pipeline {pipeline!r}; this installation has {known}")


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


def check_base(root: Path, sha256: str) -> None:
    """Assert that a folder still holds what it was registered with; reads all of it.

    Raises:
        BrokenBase: it holds something else, or nothing that can be read.
    """
    if not root.is_dir():
        raise BrokenBase(f"{root} does not exist")
    try:
        found = base_sha256(root)
    except OSError as error:
        raise BrokenBase(f"{root} can't be read: {error}") from error
    if found != sha256:
        raise BrokenBase(f"{root} is not what was registered: its hash is {found}, not {sha256}; register it anew")


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
