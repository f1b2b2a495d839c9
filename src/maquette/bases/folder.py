"""Looking at a base model's folder before it is registered."""

from pathlib import Path

from msgspec import Struct

from maquette.core.basefolder import BrokenBase, base_family, base_sha256, read_model_index
from maquette.core.weights import BrokenWeights, read_header

WEIGHTLESS = frozenset({"tokenizer", "tokenizer_2", "tokenizer_3", "scheduler"})
UNUSED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Components of published folders that neither training nor drawing loads."""
PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth")


class BaseFolder(Struct, frozen=True):
    """A folder that can serve as a base.

    Attributes:
        path: absolute.
        family: name of its architecture.
        sha256: of everything that decides what it draws, see `base_sha256`.
        size: bytes of its weights.
    """

    path: Path
    family: str
    sha256: str
    size: int


def inspect_base(path: Path) -> BaseFolder:
    """Check that a folder is a whole base model in diffusers layout with safetensors weights, and hash it.

    Raises:
        BrokenBase: it is not; the message names the file and the fix.
    """
    root = path.resolve()
    family = base_family(root)
    weights = [file for name in _components(root) for file in _weights(root / name)]
    return BaseFolder(path=root, family=family, sha256=base_sha256(root), size=sum(f.stat().st_size for f in weights))


def _components(root: Path) -> list[str]:
    """Names of the components that `model_index.json` declares and we load; a null pair declares nothing."""
    declared = {name: value for name, value in read_model_index(root).items() if isinstance(value, list)}
    return [name for name, value in declared.items() if name not in UNUSED and None not in value]


def _weights(component: Path) -> list[Path]:
    if not component.is_dir():
        raise BrokenBase(f"{component} does not exist, but model_index.json declares it")
    if component.name in WEIGHTLESS:
        return []
    files = sorted(component.glob("*.safetensors"))
    if not files:
        if any(next(component.glob(pattern), None) for pattern in PICKLED):
            raise BrokenBase(f"{component} holds pickled weights only; convert them to safetensors")
        raise BrokenBase(f"{component} holds no *.safetensors file")
    for file in files:
        try:
            read_header(file)
        except BrokenWeights as error:
            raise BrokenBase(str(error)) from error
    return files
