"""Loading a base's folder with diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from maquette.core.basefolder import BrokenBase
from maquette.families.precision import resting

# Bars are for terminals; our output is a log.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


def load_parts(library: Any, base: Path, device: torch.device, absent: Mapping[str, Any]) -> Any:
    """Load a base's folder in the device's precision, whatever its files have.

    Args:
        library: diffusers' pipeline class.
        absent: parts that it knows and we do without, and what it is to make of that.

    Raises:
        BrokenBase: the folder lacks a part, or a part can't be used.
    """
    try:
        parts = library.from_pretrained(
            str(base),
            dtype={"default": resting(device), "vae": torch.float32},
            local_files_only=True,
            use_safetensors=True,
            **absent,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BrokenBase(f"the base in {base} can't be loaded: {error}") from error
    return parts.to(device)
