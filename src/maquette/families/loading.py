"""Loading a base's folder with diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers

from maquette.core.basefolder import MODEL_INDEX, WEIGHTS, BrokenBase, read_config, single_file
from maquette.families.precision import resting

# Bars are for terminals; our output is a log.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

AUTOENCODER = "vae"
CONFIG = "config.json"
"""Of a component with weights."""
LIBRARIES: Mapping[str, Any] = {"diffusers": diffusers, "transformers": transformers}
"""Where the classes of components are, as `model_index.json` calls it."""


def load_parts(library: Any, base: Path, device: torch.device, absent: Mapping[str, Any]) -> Any:
    """Load a base's folder into host memory, in the device's precision, whatever its files have.

    Its weights are in the components' folders, or in one file beside these, as checkpoints were published before there
    were folders; then the components' folders hold configurations and tokenizers alone, and weights where the file has
    none of theirs.

    Args:
        library: diffusers' pipeline class.
        absent: parts that it knows and we do without, and what it is to make of that.

    Raises:
        BrokenBase: the folder lacks a part, or a part can't be used.
    """
    try:
        return _loaded(library, base, device, absent)
    except (BrokenBase, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BrokenBase(f"the base in {base} can't be loaded: {error}") from error


def _loaded(library: Any, base: Path, device: torch.device, absent: Mapping[str, Any]) -> Any:
    models = _models(base, absent)
    file = single_file(base, [model.name for model in models])
    if file is None:
        return library.from_pretrained(
            str(base),
            dtype={"default": resting(device), AUTOENCODER: torch.float32},
            local_files_only=True,
            use_safetensors=True,
            **absent,
        )
    # The library would expect the weights of these in the file, too.
    apart = {
        model.name: getattr(LIBRARIES[model.library], model.kind).from_pretrained(
            base / model.name, local_files_only=True, use_safetensors=True
        )
        for model in models
        if any((base / model.name).glob(WEIGHTS))
    }
    parts = library.from_single_file(str(file), config=str(base), local_files_only=True, **(apart | dict(absent)))
    for model in models:
        part, wanted = parts.components[model.name], torch.float32 if model.name == AUTOENCODER else resting(device)
        if model.library == "transformers":
            # Out of a file the library leaves some as they train, and what two layers share with one of them alone.
            part.eval().tie_weights()
        if any(weight.dtype != wanted for weight in part.parameters()):
            part.to(wanted)
    return parts


class _Model(NamedTuple):
    """A component that has weights: its name, and the class and library that `model_index.json` names."""

    name: str
    library: str
    kind: str


def _models(base: Path, absent: Mapping[str, Any]) -> list[_Model]:
    index = read_config(base / MODEL_INDEX)
    declared = [(name, pair) for name, pair in index.items() if isinstance(pair, list) and name not in absent]
    return [_Model(name, *pair) for name, pair in declared if (base / name / CONFIG).exists()]
