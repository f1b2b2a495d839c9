"""A checkpoint in one file: of which family it is, and whether configurations fit it.

Both are told from the header, which names every tensor and its shape.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from maquette.bases.look import CONFIG, look
from maquette.core.basefolder import BaseLayout, BrokenBase, Depth, FileLayout, Width, read_config
from maquette.core.weights import BrokenWeights, TensorInfo, read_header


class Checkpoint(Struct, frozen=True):
    """A file of a base's weights.

    Attributes:
        path: of the file.
        family: of the base.
        layout: how the file names its tensors.
        tensors: all of them by name.
    """

    path: Path
    family: str
    layout: FileLayout
    tensors: Mapping[str, TensorInfo]

    @property
    def components(self) -> frozenset[str]:
        """The components whose weights are in the file."""
        return frozenset(name for name, mark in self.layout.components.items() if mark in self.tensors)


def recognise(path: Path, layouts: Mapping[str, BaseLayout]) -> Checkpoint:
    """Tell the family of a file from its tensors' names.

    Raises:
        BrokenBase: it is damaged, or no checkpoint of one of the families with these layouts.
    """
    try:
        tensors = read_header(path).tensors
    except BrokenWeights as error:
        raise BrokenBase(str(error)) from error
    known = [(family, file) for family, layout in layouts.items() for file in layout.files]
    for family, file in known:
        if file.marks <= tensors.keys():
            return Checkpoint(path, family, file, tensors)
    raise BrokenBase(f"{path}: expected a checkpoint of {_families(layouts)}, found {_nearest(path, tensors, known)}")


def misfits(checkpoint: Checkpoint, root: Path) -> list[str]:
    """Where a base's configurations say something else than the file's tensors; in words, none where they fit.

    Compared is what the family's spec lists, of the components whose weights are in the file: how wide layers are, and
    how many blocks there are. What a configuration leaves open is not.

    Raises:
        BrokenBase: a configuration can't be read.
    """
    declared = {component: read_config(root / component / CONFIG) for component in checkpoint.components}
    found = [
        *((width, _width(checkpoint, width)) for width in checkpoint.layout.widths),
        *((depth, _depth(checkpoint, depth)) for depth in checkpoint.layout.depths),
    ]
    return [
        f"{one.component}/{CONFIG} says {one.field} {said}, the file has {actual}"
        for one, actual in found
        if (said := _number(declared.get(one.component, {}), one.field)) is not None and said != actual
    ]


def check_fit(checkpoint: Checkpoint, root: Path) -> None:
    """Assert that a base's configurations fit the file, see `misfits`.

    Raises:
        BrokenBase: they don't.
    """
    if found := misfits(checkpoint, root):
        raise BrokenBase(
            f"{checkpoint.path} does not fit the configurations beside it: {'; '.join(found)}; name others with"
            " --configs"
        )


def _families(layouts: Mapping[str, BaseLayout]) -> str:
    return ", ".join(family for family, layout in layouts.items() if layout.files) or "a family that is installed"


def _nearest(path: Path, tensors: Mapping[str, TensorInfo], known: list[tuple[str, FileLayout]]) -> str:
    """What a file is that is none of these: most of a checkpoint, or something else."""
    family, nearest = max(known, key=lambda one: len(one[1].marks & tensors.keys()), default=(None, None))
    if nearest is None or not nearest.marks & tensors.keys():
        return look(path).words
    lacking = sorted(nearest.marks - tensors.keys())
    return f"one of {family} without {', '.join(lacking)}"


def _width(checkpoint: Checkpoint, width: Width) -> int:
    """0 where there is no such tensor, or it has no such axis."""
    tensor = checkpoint.tensors.get(width.tensor)
    return tensor.shape[width.axis] if tensor is not None and width.axis < len(tensor.shape) else 0


def _depth(checkpoint: Checkpoint, depth: Depth) -> int:
    names = (name.removeprefix(depth.blocks) for name in checkpoint.tensors if name.startswith(depth.blocks))
    return len({name.partition(".")[0] for name in names})


def _number(config: Mapping[str, object], field: str) -> int | None:
    """A number of a configuration; None where it says nothing of it, or leaves it at null."""
    name, _, place = field.partition(".")
    value = config.get(name)
    if place and isinstance(value, list) and value:
        value = value[int(place)]
    elif place:
        return None
    return value if isinstance(value, int) else None
