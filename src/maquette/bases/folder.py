"""Looking at a base model's folder before it is registered; refiners are such folders too."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from maquette.bases.catalogue import BaseKind
from maquette.bases.checkpoint import check_fit, recognise
from maquette.bases.look import expect
from maquette.core.basefolder import (
    MODEL_INDEX,
    WEIGHTS,
    BaseLayout,
    BrokenBase,
    ComponentLayout,
    base_family,
    base_sha256,
    read_config,
    single_file,
)
from maquette.core.weights import BrokenWeights, TensorInfo, read_header

PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth")
SHARD = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})")
"""What the names of files have that hold a part of a component's weights each."""


class BaseFolder(Struct, frozen=True):
    """A folder that can serve as a base.

    Attributes:
        path: absolute.
        family: name of its architecture.
        sha256: of everything that decides what it draws, see `base_sha256`.
        text_width: numbers in a vector of its text encoder, which an embedding must have too; None if it doesn't say.
        latent_channels: of its autoencoder, which another one must have too; None if it doesn't say.
    """

    path: Path
    family: str
    sha256: str
    text_width: int | None = None
    latent_channels: int | None = None


def inspect_base(path: Path, layouts: Mapping[str, BaseLayout], kind: BaseKind = BaseKind.CHECKPOINT) -> BaseFolder:
    """Check that a folder is a whole base model of one of the families with these layouts, and hash it.

    Where its weights are in a file beside the components' folders, that file must fit their configurations, as far as
    `misfits` can tell.

    Raises:
        BrokenBase: it is not; the message names the file and the fix.
    """
    root = path.resolve()
    expect(root, kind)
    family = base_family(root, layouts)
    declared = _declared(root, family, layouts[family])
    components = layouts[family].components
    file = single_file(root, [name for name, component in components.items() if component.weights])
    if file is not None and layouts[family].files:
        _check_file(file, root, family, layouts[family])
    elif file is not None:
        check_weights(root)
    for name, component in components.items():
        _check_component(root / name, component, declared[name], in_file=file is not None)
    return BaseFolder(
        path=root,
        family=family,
        sha256=base_sha256(root),
        text_width=_number(root / "text_encoder" / "config.json", "hidden_size"),
        latent_channels=_number(root / "vae" / "config.json", "latent_channels"),
    )


def _number(config: Path, field: str) -> int | None:
    value = read_config(config).get(field) if config.exists() else None
    return value if isinstance(value, int) else None


def _declared(root: Path, family: str, layout: BaseLayout) -> dict[str, object]:
    """The class of each component. A null pair declares nothing, as diffusers writes it for what a pipeline goes
    without.
    """
    index = read_config(root / MODEL_INDEX)
    declared = {name: pair[-1] for name, pair in index.items() if isinstance(pair, list) and None not in pair}
    if missing := [name for name in layout.components if name not in declared]:
        raise BrokenBase(
            f"{root / MODEL_INDEX} declares no {', '.join(missing)}, which a base of the family {family} needs"
        )
    return declared


def _check_file(file: Path, root: Path, family: str, layout: BaseLayout) -> None:
    """Look at the file of weights beside the components' folders."""
    checkpoint = recognise(file, {family: layout})
    for name, component in layout.components.items():
        if component.weights and name not in checkpoint.components and not any((root / name).glob(WEIGHTS)):
            raise BrokenBase(f"{file} has no weights of the {name}, and {root / name} holds none either")
    check_fit(checkpoint, root)


def _check_component(folder: Path, layout: ComponentLayout, declared: object, *, in_file: bool) -> None:
    """Look at a component's folder; where a file beside it holds weights, it need not."""
    if not folder.is_dir():
        raise BrokenBase(f"{folder} does not exist, but {MODEL_INDEX} declares it")
    config = read_config(folder / layout.config)
    if not layout.weights:
        return
    if (found := config.get("_class_name", declared)) != declared:
        raise BrokenBase(f"{folder / layout.config}: expected {declared}, as {MODEL_INDEX} declares, found {found}")
    if not in_file or any(folder.glob(WEIGHTS)):
        check_weights(folder)


def check_weights(folder: Path) -> dict[str, TensorInfo]:
    """Assert that a component's folder holds whole safetensors files; answers their tensors.

    Raises:
        BrokenBase: it does not; the message names the file and the fix.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        if any(next(folder.glob(pattern), None) for pattern in PICKLED):
            raise BrokenBase(f"{folder} holds pickled weights only; convert them to safetensors")
        raise BrokenBase(f"{folder} holds no *.safetensors file")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        try:
            tensors |= read_header(file).tensors
        except BrokenWeights as error:
            raise BrokenBase(str(error)) from error
    _check_shards(files)
    return tensors


def _check_shards(files: Sequence[Path]) -> None:
    """Assert that of weights in several files, which say how many they are, none is missing."""
    for file in files:
        if (found := SHARD.search(file.stem)) is None:
            continue
        count = int(found["count"])
        there = [SHARD.sub(f"-{number:05}-of-{found['count']}", file.name) for number in range(1, count + 1)]
        if missing := [name for name in there if not file.with_name(name).exists()]:
            raise BrokenBase(f"{file.parent} lacks {', '.join(missing)}, of {count} files of its weights")
