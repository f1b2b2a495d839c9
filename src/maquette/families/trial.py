"""`python -m maquette.families.trial FAMILY FOLDER`: load a base as training would, and look at all its numbers.

The folder may be that of an autoencoder alone. Exit code 0 says that it is fit, `UNFIT_EXIT` that it is not, and stdout
why. Any other says nothing of it: it could not be tried here, for want of torch or of memory, and the last line on
stderr says so.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from maquette.core.basefolder import MODEL_INDEX, UNFIT_EXIT, BrokenBase
from maquette.core.drawing import BaseUse
from maquette.core.specs import BaseRef, TaskType, TrainingRequest, TrainingSettings, resolve
from maquette.families.base import Part, load_family
from maquette.families.precision import NOWHERE
from maquette.families.registry import load_spec

SIDE = 512
"""Of pictures that a training asks for, in pixels; it makes no difference to what is tried."""
TOLD = 3
"""How many of the damaged weights are named."""


def try_base(family: str, folder: Path) -> None:
    """Load a base in host memory, in the smallest numbers that training may have it in, and look at each.

    Raises:
        BrokenBase: a part can't be loaded, lacks weights, has some of other shapes, or numbers that are not finite; or
            what it predicts can't be trained.
    """
    parts = load_family(family)
    pipeline = parts.pipeline.load(folder, NOWHERE, waiting=True)
    parts.objective(pipeline, _usual_settings(family))
    for part, modules in pipeline.modules.items():
        _check_finite(folder, part, modules)


def try_autoencoder(family: str, folder: Path) -> None:
    """Load an autoencoder that drawing may use in place of a base's own, and look at each of its numbers.

    Raises:
        BrokenBase: as of a base.
    """
    pipeline: Any = load_family(family).pipeline
    autoencoder = pipeline.AUTOENCODER.load(BaseUse(str(folder), ""), torch.device("cpu"))
    _check_finite(folder, Part.AUTOENCODER, [autoencoder.vae])


def _check_finite(folder: Path, part: Part, modules: Iterable[torch.nn.Module]) -> None:
    damaged = [
        f"{name} ({type(module).__name__})"
        for module in modules
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if damaged:
        raise BrokenBase(
            f"{folder}: expected finite numbers, found others in {len(damaged)} weights of the"
            f" {part.replace('_', ' ')}: {', '.join(damaged[:TOLD])}"
        )


def _usual_settings(family: str) -> TrainingSettings:
    """What a training that asks for nothing is given."""
    request = TrainingRequest(name="", base_model="", width=SIDE, height=SIDE, image_dataset_items=[])
    return resolve(
        request,
        task_type=TaskType.SUBJECT,
        base=BaseRef("", family, ""),
        pictures=(),
        defaults=load_spec(family).defaults,
        draw_seed=lambda: 0,
    ).settings


def main(family: str, folder: str) -> int:
    """Try a base, or an autoencoder; answers the exit code."""
    root = Path(folder)
    try:
        (try_base if (root / MODEL_INDEX).exists() else try_autoencoder)(family, root)
    except MemoryError:
        raise
    except Exception as error:
        words = str(error) if isinstance(error, BrokenBase) else f"{type(error).__name__}: {error}"
        sys.stdout.write(words)
        return UNFIT_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
